//! Frames on their way in: where they lie from the moment they are received until they are delivered.

use std::io;

use arrayvec::ArrayVec;

use super::link::{LinkQueue, RECEIVE_BUFFER, Received};
use crate::frame::vnet::VnetHeader;
use crate::virtqueue::Segment;

/// Frames that are received together at most.
pub const BATCH: usize = 32;

/// Buffers for the frames of links that are read, kept from burst to burst.
#[derive(Debug, Default)]
pub struct Inbox {
    buffers: Vec<Vec<u8>>,
}

/// The frames of one burst of a queue. They are its user's until it is dropped.
#[derive(Debug)]
pub struct Arrivals<'a> {
    queue: &'a LinkQueue,
    buffers: &'a mut Vec<Vec<u8>>,
    /// Where each frame lies in its buffer.
    places: ArrayVec<Received, BATCH>,
}

impl Inbox {
    /// Begins a burst of `queue`.
    pub fn open<'a>(&'a mut self, queue: &'a LinkQueue) -> Arrivals<'a> {
        Arrivals {
            queue,
            buffers: &mut self.buffers,
            places: ArrayVec::new(),
        }
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
        let number = self.places.len();
        if number == BATCH {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if number == self.buffers.len() {
            self.buffers.push(vec![0; RECEIVE_BUFFER]);
        }
        let buffer = &mut self.buffers[number];
        let received = self.queue.receive(buffer)?;
        self.places.push(received);
        Ok(received.split(buffer))
    }

    /// Where the frames lie that were received, in their order.
    pub fn segments(&mut self) -> ArrayVec<Segment<'_>, BATCH> {
        let frames = self.buffers.iter_mut().zip(&self.places);
        frames
            .map(|(buffer, place)| Segment::of(place.split(buffer).1))
            .collect()
    }
}
