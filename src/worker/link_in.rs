//! One turn of one queue of a device of the host: read a burst, decide, deliver.

use std::io;

use super::egress::Burst;
use super::ingress::{Moment, Path, Tally, Turn};
use super::payload::Payload;
use super::route::Entrance;
use super::snapshot::{PortId, Snapshot};
use super::straight::{Sizes, Straight};
use crate::stats::DropReason;
use crate::uplink::{self, BATCH};

impl Path {
    /// Serves queue number `index` of the device behind the port `id` once.
    pub fn link_turn(
        &mut self,
        snapshot: &Snapshot,
        (id, index): (PortId, usize),
        at: Moment,
        sizes: &mut Sizes,
    ) -> Turn {
        let here = (snapshot, at.worker);
        let Some(entrance) = Entrance::of(here, id, at.now_s) else {
            return Turn::Idle;
        };
        let Entrance { port, counts, .. } = entrance;
        let Some(link) = port.attachment.link() else {
            return Turn::Idle;
        };
        let Some(queue) = link.queues().get(index) else {
            return Turn::Idle;
        };
        let straight = Straight::find(here, (id, counts), (port, link));
        if let Some(straight) = straight.as_ref().filter(|_| sizes.are_large())
            && let Some(turn) = self.straight_turn(snapshot, straight, at, sizes)
        {
            return turn;
        }
        self.routes.clear();
        let mut arrivals = self.inbox.open(queue);
        let mut number = 0;
        let mut busy = false;
        let mut complained = false;
        for _ in 0..BATCH {
            match arrivals.receive() {
                Ok((vnet, bytes)) => {
                    let len = bytes.len();
                    let frames = &mut self.routes.frames;
                    let read = frames.add(|frame| frame.read_bytes(number, vnet, bytes, len));
                    if let Err(reason) = read {
                        counts.drop_frames(0, reason, 1);
                    }
                    number += 1;
                }
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
            busy = true;
        }
        let missed = arrivals.take_losses();
        if missed > 0 {
            // In which VLAN they were is not known.
            counts.drop_frames(0, DropReason::Missed, missed.into());
        }
        self.routes.expect(&entrance);
        for frame in 0..self.routes.frames.len() {
            self.routes.add(&entrance, frame);
        }
        self.routes.count(here, |_| true);
        if let Some(straight) = straight {
            for frame in &*self.routes.frames {
                sizes.note(frame, straight.accepts());
            }
        }
        let segments = arrivals.segments();
        let mut tally = Tally::new(snapshot, counts, at.worker, &mut self.failed, None);
        let burst = Burst {
            frames: &self.routes.frames,
            jobs: &self.routes.jobs,
            payload: Payload::Frames(&segments),
            sole: 0,
        };
        self.egress.deliver(here, burst, at.patience, &mut tally);
        if busy { Turn::Busy } else { Turn::Idle }
    }
}
