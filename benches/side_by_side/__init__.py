"""evb beside Open vSwitch with DPDK and others, in one run on one machine. See docs/performance.md."""
