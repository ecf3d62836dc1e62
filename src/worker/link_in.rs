//! One turn of one queue of a device of the host: read a burst, decide, deliver.

use std::io;

use super::count::{Counts, drop_at};
use super::egress::Burst;
use super::frame::{Frame, HEAD};
use super::ingress::{BURST, Moment, Path, Tally, Turn};
use super::payload::Payload;
use super::snapshot::{PortId, Snapshot};
use crate::frame::vnet::Origin;
use crate::stats::DropReason;
use crate::uplink::{self, LinkQueue, RECEIVE_BUFFER};

impl Path {
    /// Serves queue number `index` of the device behind the port `id` once.
    pub fn link_turn(&mut self, snapshot: &Snapshot, id: PortId, index: usize, at: Moment) -> Turn {
        let (Some(port), Some(counts)) = (snapshot.port(id), Counts::of(snapshot, id, at.worker))
        else {
            return Turn::Idle;
        };
        let Some(queue) = port
            .attachment
            .link()
            .and_then(|link| link.queues().get(index))
        else {
            return Turn::Idle;
        };
        self.buffers.resize_with(BURST, Vec::new);
        self.routes.clear();
        let mut received = 0;
        let mut complained = false;
        for buffer in 0..BURST {
            match self.receive(queue, buffer) {
                Ok(Ok(frame)) => {
                    self.routes
                        .add(snapshot, id, frame, at.now_s, |at_port, reason| {
                            drop_at(snapshot, at.worker, at_port, reason);
                        });
                }
                Ok(Err(reason)) => counts.drop_frames(0, reason, 1),
                Err(error) if uplink::is_lost_frame(&error) => {
                    counts.drop_frames(0, DropReason::TooLong, 1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It was down for a while, which a socket says once: behind that there may be frames.
                Err(_) if !complained => {
                    complained = true;
                    continue;
                }
                // It is down or gone, which is watched elsewhere.
                Err(_) => break,
            }
            received += 1;
        }
        self.deliver_received(snapshot, counts, at);
        if received > 0 { Turn::Busy } else { Turn::Idle }
    }

    /// Reads one frame into a buffer, and takes it apart.
    fn receive(
        &mut self,
        queue: &LinkQueue,
        number: usize,
    ) -> io::Result<Result<Frame, DropReason>> {
        let buffer = &mut self.buffers[number];
        buffer.resize(RECEIVE_BUFFER, 0);
        let received = queue.receive(buffer)?;
        let (vnet, bytes) = received.split(buffer);
        let len = bytes.len();
        let head_len = len.min(HEAD);
        let checked = vnet.check(len, &mut bytes[..head_len], Origin::Uplink);
        let frame = checked.and_then(|vnet| {
            let rest_at = buffer.len().min(received.at + VNET + head_len);
            Frame::new(
                number,
                vnet,
                &buffer[received.at + VNET..][..head_len],
                len,
                rest_at,
            )
        });
        Ok(frame)
    }

    fn deliver_received(&mut self, snapshot: &Snapshot, counts: Counts<'_>, at: Moment) {
        self.routes.count((snapshot, at.worker), |_| true);
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Buffers(&self.buffers),
            sole: 0,
        };
        let here = (snapshot, at.worker);
        self.egress.deliver(here, burst, at.patience, &mut tally);
    }
}

/// Bytes of the virtio-net header of a link.
const VNET: usize = crate::frame::vnet::VnetHeader::LEN;
