"""Several machines by Ray: Ray Data for folders of files, Ray Serve for requests.

Ray is imported when one of them is asked for.
"""
