"""Sources and sinks that never end: a camera in, masks out, the newest frame wins.

::

    sources/  one file a kind: opens, keeps its newest frame, counts what it superseded
    loop      takes the newest frame of each source in turn, has it segmented, sends it to every sink
    sinks/    one file a kind: starts with the model's classes, sends a mask, closes

``registry`` turns the addresses of the command line into sources and sinks; a kind is imported only when its address is named.
``segmenter`` is the network in this process or a running service.
"""
