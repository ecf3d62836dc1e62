//! Frames on their way in: where they lie from the moment they are received until they are delivered.

use std::io;

use arrayvec::ArrayVec;

use super::link::{LinkQueue, RECEIVE_BUFFER, Received};
use super::{packet, xdp};
use crate::frame::vnet::VnetHeader;
use crate::virtqueue::Segment;

/// Frames that are received together at most.
pub const BATCH: usize = 32;

/// Buffers for the frames of links that are read, kept from burst to burst.
#[derive(Debug, Default)]
pub struct Inbox {
    buffers: Vec<Buffer>,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where the frame is in it.
    frame: Received,
}

/// The frames of one burst of a queue. They are its user's until it is dropped.
#[derive(Debug)]
pub struct Arrivals<'a> {
    source: Source<'a>,
    count: usize,
}

#[derive(Debug)]
enum Source<'a> {
    /// Frames are read into buffers.
    Read {
        queue: &'a LinkQueue,
        buffers: &'a mut Vec<Buffer>,
    },
    /// Frames are in the memory of the queue.
    Lent(xdp::Lent<'a>),
    /// Those that fit are there, and the others are read into buffers.
    Mixed {
        lent: packet::Lent<'a>,
        buffers: &'a mut Vec<Buffer>,
    },
}

impl Buffer {
    /// The buffer of frame number `number`.
    fn of(buffers: &mut Vec<Buffer>, number: usize) -> &mut Buffer {
        while buffers.len() <= number {
            buffers.push(Buffer {
                bytes: vec![0; RECEIVE_BUFFER],
                frame: Received::default(),
            });
        }
        &mut buffers[number]
    }

    fn split(&mut self) -> (VnetHeader, &mut [u8]) {
        self.frame.split(&mut self.bytes)
    }
}

impl Inbox {
    /// Begins a burst of `queue`.
    pub fn open<'a>(&'a mut self, queue: &'a LinkQueue) -> Arrivals<'a> {
        let source = match queue {
            LinkQueue::Xdp(queue) => Source::Lent(queue.lend()),
            LinkQueue::Packet(queue) => Source::Mixed {
                lent: queue.lend(),
                buffers: &mut self.buffers,
            },
            LinkQueue::Device(_) | LinkQueue::Peer(_) => Source::Read {
                queue,
                buffers: &mut self.buffers,
            },
        };
        Arrivals { source, count: 0 }
    }
}

impl Arrivals<'_> {
    /// Receives one more frame: its header, to be checked by the caller as one of the kernel's, and its bytes.
    ///
    /// # Errors
    ///
    /// Those of [`LinkQueue::receive`]; `WouldBlock` also after [`BATCH`] frames.
    #[inline]
    pub fn receive(&mut self) -> io::Result<(VnetHeader, &mut [u8])> {
        if self.count == BATCH {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let frame = match &mut self.source {
            Source::Lent(lent) => (VnetHeader::PLAIN, lent.take()?),
            Source::Read { queue, buffers } => {
                let buffer = Buffer::of(buffers, self.count);
                buffer.frame = queue.receive(&mut buffer.bytes)?;
                buffer.split()
            }
            Source::Mixed { lent, buffers } => match lent.take()? {
                packet::Arrival::Here(header) => (header, lent.last()),
                packet::Arrival::Socket => {
                    let buffer = Buffer::of(buffers, self.count);
                    buffer.frame = lent.read(&mut buffer.bytes)?;
                    buffer.split()
                }
            },
        };
        self.count += 1;
        Ok(frame)
    }

    /// Where the frames lie that were received, in their order.
    pub fn segments(&mut self) -> ArrayVec<Segment<'_>, BATCH> {
        match &mut self.source {
            Source::Lent(lent) => lent.taken().map(Segment::of).collect(),
            Source::Read { buffers, .. } => {
                let frames = buffers.iter_mut().take(self.count);
                frames.map(|buffer| Segment::of(buffer.split().1)).collect()
            }
            Source::Mixed { lent, buffers } => {
                let mut buffers = buffers.iter_mut();
                let frames = lent.taken().map(|frame| match (buffers.next(), frame) {
                    (Some(buffer), []) => buffer.split().1,
                    (_, frame) => frame,
                });
                frames.map(Segment::of).collect()
            }
        }
    }

    /// How many frames for this queue were lost before they could be received, as far as it tells, and has not told
    /// yet.
    pub fn take_losses(&mut self) -> u32 {
        match &mut self.source {
            Source::Read { .. } | Source::Lent(_) => 0,
            Source::Mixed { lent, .. } => lent.take_losses(),
        }
    }
}
