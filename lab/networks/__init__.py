"""The reference networks of qemu-configs/, brought up on one machine: each host and each station is a network
namespace.

describe.py  what a network is, and what has to reach what
reference.py the ten networks
elements.py  what they are made of, each by itself
netns.py     namespaces and cables
probe.py     raw frames, sent and caught
build.py     brings a network up and takes it down
command.py   python3 -m lab network ...
functions.py one of them on functions of a NIC
"""
