//! A guest with very many addresses.

use std::path::Path;
use std::time::Duration;

use super::clock::Clock;
use super::error::{BenchError, system};
use super::station::{Make, Station};
use super::stop;
use crate::virtqueue::driver::SendError;

/// How long it is waited for a turn.
const WAIT: Duration = Duration::from_millis(100);
/// Turns in which nothing may move.
const PATIENCE: u32 = 50;

/// Connects a guest and has the back end learn `count` addresses of it. It has to stay for as long as they are to
/// be known.
pub fn fill(socket: &Path, count: u32, vlans: u16, clock: Clock) -> Result<Station, BenchError> {
    let make = Make {
        ring_size: 256,
        longest: 64,
        ..Make::idle(clock)
    };
    let mut station = Station::connect(socket, &make, vec![], u16::MAX)?;
    let queue = station.spare_mut().ok_or_else(|| {
        BenchError::Options("a guest that fills the database has a queue".to_owned())
    })?;
    let mut frame = [0; 64];
    let mut idle = 0;
    let mut number = 0;
    while number < count || queue.outstanding() > 0 {
        let mut sent = false;
        while number < count {
            let bytes = describe(&mut frame, number, vlans);
            match queue.send(&[0; 12], bytes) {
                Ok(()) => (number, sent) = (number + 1, true),
                Err(SendError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if sent {
            queue.kick().map_err(system("wake the back end"))?;
        }
        stop::check()?;
        let moved = queue.wait(WAIT).map_err(system("wait for the back end"))?;
        queue.reclaim()?;
        idle = if moved || sent { 0 } else { idle + 1 };
        if idle > PATIENCE {
            return Err(BenchError::Stalled(5));
        }
    }
    Ok(station)
}

/// A frame from address number `number` to itself: it is learned, and nobody gets it.
fn describe(frame: &mut [u8; 64], number: u32, vlans: u16) -> &[u8] {
    let [a, b, c, d] = number.to_be_bytes();
    let address = [0x02, 0x66, a, b, c, d];
    frame[..6].copy_from_slice(&address);
    frame[6..12].copy_from_slice(&address);
    // An EtherType for experiments.
    let mut kind = 12;
    if vlans > 0 {
        let vid = 1 + (number % u32::from(vlans)) as u16;
        frame[12..14].copy_from_slice(&[0x81, 0]);
        frame[14..16].copy_from_slice(&vid.to_be_bytes());
        kind = 16;
    }
    frame[kind..kind + 2].copy_from_slice(&[0x88, 0xb5]);
    &frame[..]
}
