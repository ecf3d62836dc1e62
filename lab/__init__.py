"""The lab: real guests under QEMU in front of a real `evb`. docs/testing.md says how to use it."""
