//! A frame that comes alone gets what it would have got among others.

use crate::stats::{DropReason, Totals};
use crate::virtqueue::driver::{Layout, QueueOptions};
use crate::worker::ingress::{Path, Turn};
use crate::worker::testing::{Guest, Net, frame, moment};
use crate::worker::{PortId, Snapshot};

/// Buffers of the receiver, and bytes of each.
const BUFFERS: u16 = 8;
const BUFFER: u32 = 1000;

/// A sender, a receiver, and a third guest.
struct Bench {
    guests: [Guest; 3],
    net: Net,
    snapshot: Snapshot,
    path: Path,
}

impl Bench {
    /// Guests whose buffers lie in so many pieces.
    fn new(pieces: u8) -> Self {
        let options = |buffer_len| QueueOptions {
            size: BUFFERS * u16::from(pieces),
            buffers: BUFFERS,
            buffer_len,
            layout: Layout::Pieces(pieces),
            ..QueueOptions::default()
        };
        let guests = [0; 3].map(|_| Guest::with_options([BUFFER, 20_000].map(options)));
        let net = Net::new(&guests, []);
        Self {
            snapshot: net.snapshot(1, |_| 0),
            net,
            guests,
            path: Path::default(),
        }
    }

    /// A turn of the first guest's queue.
    fn turn(&mut self) -> Turn {
        let at = moment(1_000_000, 100_000);
        self.path.turn(&self.snapshot, PortId(0), 0, at)
    }

    /// Sends a frame of `len` bytes to the second guest, and one to the third in the same turn if it is not to be
    /// `alone`; how many bytes the second gets.
    fn send(&mut self, len: usize, alone: bool) -> Option<usize> {
        let [sender, receiver, third] = &mut self.guests;
        let mut bytes = frame(0, 1, len as u32).to_vec();
        bytes.extend((60..len).map(|at| at as u8));
        sender.tx.send(&[0; 12], &bytes).unwrap();
        if !alone {
            sender.tx.send(&[0; 12], &frame(0, 2, 0)).unwrap();
        }
        sender.tx.kick().unwrap();
        receiver.refill();
        third.refill();
        assert_eq!(self.turn(), Turn::Busy);
        let [sender, receiver, third] = &mut self.guests;
        sender.tx.reclaim().unwrap();
        assert_eq!(sender.tx.outstanding(), 0, "{len} bytes");
        assert_eq!(third.received().len(), usize::from(!alone), "{len} bytes");
        let mut got = vec![];
        receiver.rx.recv(&mut got).unwrap()?;
        assert!(got == bytes, "{len} bytes");
        Some(got.len())
    }
}

/// What becomes of frames of these lengths, and what is counted at their receiver.
fn sent(pieces: u8, lens: &[usize], alone: bool) -> (Vec<Option<usize>>, Totals) {
    let mut bench = Bench::new(pieces);
    let got = lens.iter().map(|len| bench.send(*len, alone)).collect();
    if alone {
        let total: usize = lens.iter().sum();
        let at_sender = bench.net.counted(0, 0);
        assert_eq!(at_sender.tx_frames, lens.len() as u64);
        assert_eq!(at_sender.tx_bytes, total as u64);
    }
    (got, bench.net.counted(1, 0))
}

#[test]
fn frames_alone_are_as_frames_among_others() {
    // All in the head, with a rest, just in a buffer, in two, in all, and too large for all.
    let lens = [60, 128, 129, 700, 988, 989, 5000, 7988, 7989, 15_000, 60];
    let holds = usize::from(BUFFERS) * BUFFER as usize;
    let fits = |len: &usize| len + 12 <= holds;
    for pieces in [1, 2] {
        // A ring that has more descriptors than buffers might still get others.
        let lens: Vec<_> = lens
            .into_iter()
            .filter(|len| pieces == 1 || fits(len))
            .collect();
        let (alone, at_receiver) = sent(pieces, &lens, true);
        let (among, as_well) = sent(pieces, &lens, false);
        assert_eq!((&alone, &at_receiver), (&among, &as_well));
        let expected: Vec<_> = lens.iter().map(|len| fits(len).then_some(*len)).collect();
        assert_eq!(alone, expected);
        let dropped = at_receiver.dropped(DropReason::RxChain);
        assert_eq!(dropped, if pieces == 1 { 2 } else { 0 });
        assert_eq!(at_receiver.rx_frames, 9);
    }
}

#[test]
fn a_frame_alone_waits_for_a_buffer() {
    let mut bench = Bench::new(1);
    bench.guests[0].send(0, &[1], 7..8);
    assert_eq!(bench.turn(), Turn::Waits);
    bench.guests[1].post(1);
    assert_eq!(bench.turn(), Turn::Busy);
    assert_eq!(bench.guests[1].received(), [7]);
    assert_eq!(bench.turn(), Turn::Idle);
    assert_eq!(bench.net.counted(1, 0).rx_frames, 1);
    assert_eq!(bench.net.counted(0, 0).tx_frames, 1);
}
