//! The far end of an uplink: a packet socket on a device, to see and say what is on the wire.

// `poll` has no safe form in the standard library.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use evb::frame::vnet::VnetHeader;
use evb::uplink::{self, Link, PacketSpec, RECEIVE_BUFFER, Spec};
use evb::virtqueue::Gather;

use super::LIMIT;
use super::guest::hex;

/// Addresses of the stations of all tests begin so.
const STATION: [u8; 3] = [0x52, 0x54, 0];

/// The far end of a wire.
pub struct Wire {
    link: Link,
    buffer: Vec<u8>,
}

impl Wire {
    /// The wire at this device, in the network of the calling thread.
    pub fn new(device: &str) -> Self {
        let device = device.to_owned();
        let opened = uplink::open(&Spec::Packet(PacketSpec { device, queues: 1 })).unwrap();
        Self {
            link: Link::new(opened.facts, opened.queues).unwrap(),
            buffer: vec![0; RECEIVE_BUFFER],
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        self.try_send(&[0; VnetHeader::LEN], frame).unwrap();
    }

    /// Sends a frame with a virtio-net header of one's choice; the kernel may not like it.
    pub fn try_send(&self, header: &[u8; VnetHeader::LEN], frame: &[u8]) -> io::Result<()> {
        let whole = Gather {
            header,
            head: frame,
            rest: &[],
            rest_skip: 0,
            rest_len: 0,
        };
        self.link.queues()[0].send(&whole)
    }

    /// The next frame of a station, without announcements.
    pub fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.recv_whole(timeout).map(|(_, frame)| frame)
    }

    /// The same with its virtio-net header, as the kernel writes it.
    pub fn recv_whole(&mut self, timeout: Duration) -> Option<(VnetHeader, Vec<u8>)> {
        self.recv_any(timeout, |frame| !super::net::is_rarp(frame))
    }

    /// The next announcement.
    pub fn announcement(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let found = self.recv_any(timeout, super::net::is_rarp);
        found.map(|(_, frame)| frame)
    }

    fn recv_any(
        &mut self,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<(VnetHeader, Vec<u8>)> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.link.queues()[0].receive(&mut self.buffer) {
                Ok(received) => {
                    let (header, frame) = received.split(&mut self.buffer);
                    if frame[6..9] == STATION && wanted(frame) {
                        return Some((header, frame.to_vec()));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The device was down for a while.
                Err(_) => continue,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            wait_readable(&self.link.queues()[0], left);
        }
    }

    /// The next frame must be this one.
    pub fn expect(&mut self, frame: &[u8]) {
        let got = self.recv(LIMIT);
        let got = got.unwrap_or_else(|| panic!("nothing came, expected {}", hex(frame)));
        assert_eq!(hex(&got), hex(frame));
    }
}

fn wait_readable(descriptor: &impl AsRawFd, timeout: Duration) {
    let mut poll = libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid structure on this stack.
    unsafe { libc::poll(&raw mut poll, 1, timeout.max(1)) };
}
