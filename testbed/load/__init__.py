"""Load on a host of the testbed, each kind bounded and with a report of what it really did (testbed.generators).

burners.py   processes that use so much of a core
requests.py  background clients of an HTTP service, in open and closed loop
holding.py   connections that want nothing, or want it slowly: for accept queues and threads
memory.py    a hog of memory
__main__.py  the commands
"""
