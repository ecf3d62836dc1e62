use super::*;
use crate::frame::ethernet::{self, Vid};
use crate::frame::mac::Mac;
use crate::frame::vnet::Origin;

fn flows(count: u64, vid: Option<u16>) -> Vec<Flow> {
    (0..count)
        .map(|n| Flow {
            dst: Mac::from_u64(0x0200_0000_0100 + n),
            src: Mac::from_u64(0x0200_0000_0200 + n),
            vid: vid.and_then(Vid::new),
        })
        .collect()
}

fn stream(kind: Kind, sizes: &[usize], flows: &[Flow]) -> Stream {
    Stream::new((7, 0), kind, sizes, flows).unwrap()
}

fn stamp(stream: u16, flow: u16, sequence: u32) -> Stamp {
    Stamp {
        sequence,
        flow,
        stream,
    }
}

/// The next frame, whole.
fn next(stream: &mut Stream, now_ns: u64) -> Vec<u8> {
    let mut whole = vec![];
    stream.compose(now_ns).write_whole(&mut whole);
    stream.advance();
    whole
}

#[test]
fn frames_are_good_packets_of_their_flow() {
    let tso = Kind::Tso { segment: 1448 };
    for (kind, vid, len) in [
        (Kind::Udp, None, 60),
        (Kind::Udp, None, 1514),
        (Kind::Udp, Some(4094), 64),
        (tso, None, 65_549),
        (tso, Some(1), 9000),
    ] {
        let all = flows(3, vid);
        let mut stream = stream(kind, &[len], &all);
        for number in 0..9_u32 {
            let frame = next(&mut stream, 0);
            let flow = &all[number as usize % 3];
            let header = ethernet::parse(&frame).unwrap();
            assert_eq!((header.dst, header.src), (flow.dst, flow.src));
            assert_eq!(header.tag.map(ethernet::Tag::vid_raw), vid);
            assert_eq!(frame.len(), len);
            let (read, end) = Stamp::read(&frame).unwrap();
            assert_eq!(read, stamp(7, (number % 3) as u16, number / 3));
            assert_eq!(end, stream.head_len());
            assert!(is_whole(read, &frame[end..]));
            let mut checked = frame.clone();
            stream
                .header()
                .check(len, &mut checked, Origin::Guest)
                .unwrap();
            assert_eq!(checked, frame);
        }
    }
}

#[test]
fn checksums_are_right() {
    let mut stream = stream(Kind::Udp, &[200], &flows(1, None));
    let frame = next(&mut stream, 0);
    assert_eq!(crate::frame::checksum::Sum::of(&frame[14..34]).finish(), 0);
    assert_eq!(frame[40..42], [0, 0], "a UDP checksum of zero is none");
}

#[test]
fn every_flow_gets_every_size() {
    let mut stream = stream(Kind::Udp, &[64, 128, 256], &flows(3, None));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..36 {
        let frame = next(&mut stream, 0);
        seen.insert((frame[5], frame.len()));
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn a_frame_comes_until_it_was_sent_and_says_when() {
    let mut stream = stream(Kind::Udp, &[64, 65], &flows(1, None)).timed();
    for now_ns in [5, 6] {
        assert_eq!(stream.next_len(), 64);
        let frame = stream.compose(now_ns);
        let (_, end) = Stamp::read(frame.head).unwrap();
        assert_eq!(sent_at(&frame.head[end..]), Some(now_ns));
    }
    stream.advance();
    assert_eq!(stream.next_len(), 65);
}

#[test]
fn streams_that_cannot_be_are_refused() {
    let mixed = [flows(1, None), flows(1, Some(1))].concat();
    let tagged = flows(1, Some(1));
    let one = flows(1, None);
    let many = flows(65_537, None);
    for (sizes, flows, expected) in [
        (&[64][..], &[][..], StreamError::Empty),
        (&[], &one, StreamError::Empty),
        (&[64], &mixed, StreamError::Tags),
        (&[64], &many, StreamError::Flows),
        (&[59], &one, StreamError::Len(59)),
        (&[63], &tagged, StreamError::Len(63)),
        (&[65_550], &one, StreamError::Len(65_550)),
    ] {
        let refused = Stream::new((0, 0), Kind::Udp, sizes, flows);
        assert_eq!(refused.err(), Some(expected));
    }
}

#[test]
fn frames_of_strangers_have_no_stamp() {
    let mut own = stream(Kind::Udp, &[64], &flows(1, None));
    let mut frame = next(&mut own, 0);
    assert!(Stamp::read(&frame).is_some());
    for at in 42..52 {
        frame[at] ^= 1;
        assert_eq!(Stamp::read(&frame), None, "byte {at}");
        frame[at] ^= 1;
    }
    for len in 0..52 {
        assert_eq!(Stamp::read(&frame[..len]), None);
    }
    assert_eq!(Stamp::read(&[0xff; 64]), None);
}

#[test]
fn one_of_256_frames_is_sampled_and_a_wrong_byte_is_found() {
    let sampled = |flow| (0..1024).filter(|&n| is_sampled(stamp(1, flow, n))).count();
    assert_eq!([sampled(0), sampled(1), sampled(500)], [4; 3]);
    for len in [0, 1, 8, 13, 1000] {
        let mut body = vec![0; len];
        fill_body(stamp(1, 2, 3), &mut body);
        assert!(is_whole(stamp(1, 2, 3), &body));
        for at in 0..len {
            body[at] ^= 0x10;
            assert!(!is_whole(stamp(1, 2, 3), &body));
            body[at] ^= 0x10;
        }
        assert!(len == 0 || !is_whole(stamp(1, 2, 4), &body));
    }
}

/// What a ledger finds about these numbers of one flow.
fn found(numbers: &[u32]) -> [u64; 4] {
    let mut ledger = Ledger::new(1);
    for &number in numbers {
        ledger.note(stamp(1, 0, number));
    }
    let Tally {
        received,
        missing,
        late,
        twice,
    } = ledger.tally();
    [received, missing, late, twice]
}

#[test]
fn what_became_of_numbers() {
    for (numbers, expected) in [
        (&[][..], [0, 0, 0, 0]),
        (&[0, 1, 2], [3, 0, 0, 0]),
        (&[5, 6], [2, 0, 0, 0]),
        (&[0, 2], [2, 1, 0, 0]),
        (&[0, 2, 1], [3, 0, 1, 0]),
        (&[0, 2, 1, 1], [4, 0, 1, 1]),
        (&[0, 0], [2, 0, 0, 1]),
        (&[0, 100], [2, 99, 0, 0]),
        (&[0, 100, 99, 37], [4, 97, 2, 0]),
        // Older than what is remembered one by one.
        (&[0, 100, 3], [3, 99, 1, 0]),
        (&[u32::MAX, 0, 1], [3, 0, 0, 0]),
        (&[u32::MAX - 1, 1], [2, 2, 0, 0]),
        // Begun again.
        (&[1 << 30, 0, 1], [3, 0, 0, 0]),
        (&[0, 1 << 30, (1 << 30) + 1], [3, 0, 0, 0]),
    ] {
        assert_eq!(found(numbers), expected, "{numbers:?}");
    }
}

#[test]
fn flows_are_followed_each_by_itself() {
    let mut ledger = Ledger::new(8);
    for number in 0..10 {
        for flow in 0..4 {
            ledger.note(stamp(1, flow, number * 3));
        }
    }
    assert_eq!(ledger.tally().missing, 4 * 9 * 2);
    ledger.restart();
    ledger.note(stamp(1, 0, 28));
    assert_eq!((ledger.tally().received, ledger.tally().missing), (1, 0));
    // More flows than places give no false alarm.
    let mut small = Ledger::new(1);
    for number in 0..100 {
        small.note(stamp(1, 0, number));
        small.note(stamp(2, 0, number));
    }
    let tally = small.tally();
    assert_eq!([tally.missing, tally.late, tally.twice], [0; 3]);
}

/// How many frames leave in `steps` of `step_ns`.
fn left(rate: Rate, len: usize, step_ns: u64, steps: u64) -> u64 {
    let mut pacer = Pacer::new(rate);
    let mut count = 0;
    for step in 0..=steps {
        pacer.refill(step * step_ns);
        count += (0..1000).take_while(|_| pacer.take(len)).count() as u64;
    }
    count
}

#[test]
fn a_rate_is_kept() {
    assert_eq!(left(Rate::Max, 64, 1, 0), 1000);
    assert_eq!(
        left(Rate::Frames(1_000_000), 64, 1_000, 1_000_000),
        1_000_000
    );
    assert_eq!(left(Rate::Frames(3), 64, 1_000_000, 10_000), 30);
    assert_eq!(left(Rate::Bits(8_000_000), 1000, 1_000_000, 1000), 1000);
    assert_eq!(left(Rate::Bits(1), 1514, 1_000_000, 1000), 0);
    // What was missed is not made up for.
    assert_eq!(left(Rate::Frames(1_000_000), 64, 1_000_000_000, 1), 1000);
}

#[test]
fn what_did_not_leave_is_not_paid_for() {
    let mut pacer = Pacer::new(Rate::Frames(1000));
    pacer.refill(0);
    pacer.refill(1_000_000);
    assert!(pacer.take(64));
    pacer.give_back(64);
    assert!(pacer.take(64));
    assert!(!pacer.take(64));
}

#[test]
fn rates_are_read_and_written() {
    for (text, rate) in [
        ("max", Rate::Max),
        ("1", Rate::Frames(1)),
        ("500k", Rate::Frames(500_000)),
        ("2M", Rate::Frames(2_000_000)),
        ("10Gbit", Rate::Bits(10_000_000_000)),
        ("7bit", Rate::Bits(7)),
        ("1234567", Rate::Frames(1_234_567)),
    ] {
        assert_eq!(text.parse(), Ok(rate));
        assert_eq!(rate.to_string(), text);
    }
    assert_eq!("1.5M".parse(), Ok(Rate::Frames(1_500_000)));
    for wrong in [
        "", "0", "-1", "k", "1kk", "1Mbits", "1T", "inf", "nan", "1e13", "fast",
    ] {
        assert_eq!(wrong.parse::<Rate>(), Err(RateError), "{wrong}");
    }
}

/// Searches where everything above `limit` gets lost in part; the result and the number of trials.
fn searched(highest: f64, limit: f64, loss: f64) -> (Option<f64>, usize) {
    let mut search = Search::new(highest, 0.01, loss);
    let mut trials = 0;
    while let Some(rate) = search.next_rate() {
        trials += 1;
        assert!(trials < 100, "it has no end");
        let loss = (1.0 - limit / rate).max(0.0);
        search.report(Trial { rate, loss });
    }
    (search.best().map(|best| best.rate), trials)
}

#[test]
fn the_highest_rate_without_loss_is_found() {
    for limit in [1e3, 5e5, 7.77e5, 9.99e5] {
        let (found, _) = searched(1e6, limit, 0.0);
        let rate = found.unwrap_or_default();
        let near = rate <= limit && rate >= limit - 1e6 * 0.01;
        assert!(near || limit < 1e4, "{limit}: {rate}");
    }
    assert_eq!(searched(1e6, 2e6, 0.0), (Some(1e6), 1));
    assert_eq!(searched(1e6, 0.0, 0.0).0, None);
    assert!(searched(1e6, 9e5, 0.2).0 > Some(9.9e5));
}
