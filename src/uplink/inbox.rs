//! Frames on their way in: where they lie from the moment they are received until they are delivered.

use std::io;

use arrayvec::ArrayVec;

use super::link::{LinkQueue, RECEIVE_BUFFER, Received};
use super::xdp::Lent;
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
    Lent(Lent<'a>),
}

impl Inbox {
    /// Begins a burst of `queue`.
    pub fn open<'a>(&'a mut self, queue: &'a LinkQueue) -> Arrivals<'a> {
        let source = match queue {
            LinkQueue::Xdp(queue) => Source::Lent(queue.lend()),
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
                if self.count == buffers.len() {
                    buffers.push(Buffer {
                        bytes: vec![0; RECEIVE_BUFFER],
                        frame: Received::default(),
                    });
                }
                let buffer = &mut buffers[self.count];
                buffer.frame = queue.receive(&mut buffer.bytes)?;
                buffer.frame.split(&mut buffer.bytes)
            }
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
                let frames = frames.map(|buffer| buffer.frame.split(&mut buffer.bytes).1);
                frames.map(Segment::of).collect()
            }
        }
    }
}
