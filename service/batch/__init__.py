"""Files instead of requests: images, videos and bags in, masks in files out. What ``fcn-serve segment`` does, below the command
line: knows neither arguments, settings nor the terminal.
"""
