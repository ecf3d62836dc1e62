use super::super::testing::{ACK, CWR, ECN, FIN, FIRST_ID, FIRST_SEQ, KINDS, PSH, Packet};
use super::super::testing::{Received, receive};
use super::*;
use crate::frame::vnet::Origin;
use proptest::prelude::*;

/// Segments a frame; every segment has been parsed and verified.
fn cut(packet: &Packet, header: &VnetHeader) -> Vec<Received> {
    let frame = packet.partial();
    let mut out = vec![0xee; 70_000];
    let mut segmenter = Segmenter::new(&frame, header, &mut out).expect("can be cut");
    let count = segmenter.plan().segments();
    let max = segmenter.plan().max_len();
    let mut segments = Vec::new();
    while let Some(segment) = segmenter.next() {
        assert!(segment.len() <= max);
        assert_eq!(
            segment[..packet.l3()],
            frame[..packet.l3()],
            "addresses and tags repeat"
        );
        segments.push(receive(segment));
    }
    assert!(segmenter.next().is_none(), "stays at its end");
    assert_eq!(segments.len(), count);
    segments
}

fn joined(segments: &[Received]) -> Vec<u8> {
    segments
        .iter()
        .flat_map(|segment| segment.payload.clone())
        .collect()
}

/// The check value: 5000 bytes of payload at an MSS of 1400 are 4 frames, with 0, 1 and 2 tags.
#[test]
fn check_value() {
    for tags in 0..=2 {
        for (v6, udp) in KINDS {
            let packet = Packet::new(v6, udp, 5000).tagged(tags);
            let segments = cut(&packet, &packet.gso(1400));
            let lengths: Vec<usize> = segments.iter().map(|s| s.payload.len()).collect();
            assert_eq!(lengths, [1400, 1400, 1400, 800]);
            assert_eq!(joined(&segments), packet.payload);
            for (i, segment) in segments.iter().enumerate() {
                assert_eq!(segment.tags, tags);
                let id = FIRST_ID.wrapping_add(i as u16);
                assert_eq!(segment.ipv4_id, (!v6).then_some(id), "the ID wraps as well");
                if !udp {
                    let seq = FIRST_SEQ.wrapping_add(1400 * i as u32);
                    assert_eq!(segment.seq, seq, "the sequence number wraps as well");
                }
            }
        }
    }
}

/// Every combination of TCP flags.
#[test]
fn flags_of_first_middle_and_last() {
    for flags in 0..=u8::MAX {
        for v6 in [false, true] {
            let mut packet = Packet::new(v6, false, 3000);
            packet.flags = flags;
            let mut header = packet.gso(1000);
            header.gso_type |= ECN;
            let seen: Vec<u8> = cut(&packet, &header).iter().map(|s| s.flags).collect();
            let middle = flags & !(FIN | PSH | CWR);
            assert_eq!(
                seen,
                [middle | flags & CWR, middle, middle | flags & (FIN | PSH)]
            );
        }
    }
}

#[test]
fn options_and_extension_headers_repeat() {
    let mut packet = Packet::new(false, false, 5000).tagged(2);
    (packet.ip_options, packet.tcp_options) = (40, 40);
    assert_eq!(joined(&cut(&packet, &packet.gso(1400))), packet.payload);
    for extensions in [vec![0], vec![60], vec![0, 60, 43, 60]] {
        for udp in [false, true] {
            let mut packet = Packet::new(true, udp, 5000).tagged(1);
            packet.extensions.clone_from(&extensions);
            assert_eq!(joined(&cut(&packet, &packet.gso(1400))), packet.payload);
        }
    }
}

#[test]
fn exact_multiple_and_odd_sizes() {
    for (len, gso_size, lengths) in [
        (2800, 1400, vec![1400, 1400]),
        (2801, 1400, vec![1400, 1400, 1]),
        (15, 7, vec![7, 7, 1]),
        (1400, 1400, vec![1400]),
        (0, 1400, vec![0]),
    ] {
        for udp in [false, true] {
            let packet = Packet::new(false, udp, len);
            let segments = cut(&packet, &packet.gso(gso_size));
            assert_eq!(
                segments.iter().map(|s| s.payload.len()).collect::<Vec<_>>(),
                lengths
            );
        }
    }
}

#[test]
fn checksum_of_a_udp_segment_is_never_zero() {
    // Sweep one word of the payload: some value makes the sum all ones.
    let mut packet = Packet::new(false, true, 4);
    let mut all_ones = 0;
    for word in 0..=u16::MAX {
        packet.payload[..2].copy_from_slice(&word.to_be_bytes());
        let frame = packet.partial();
        let mut out = [0; 100];
        let mut segmenter = Segmenter::new(&frame, &packet.gso(2), &mut out).unwrap();
        let segment = segmenter.next().unwrap();
        let sum = u16_at(segment, packet.l4() + 6).unwrap();
        assert_ne!(sum, 0);
        all_ones += u32::from(sum == 0xffff);
    }
    assert!(all_ones > 0);
}

/// Headers alone, in any order, for a payload that is summed elsewhere.
#[test]
fn plan_without_a_linear_frame() {
    let packet = Packet::new(false, false, 5001).tagged(1);
    let frame = packet.partial();
    let mut headers = frame[..packet.header_len()].to_vec();
    let plan = SegmentPlan::new(&headers, frame.len(), &packet.gso(1401)).unwrap();
    for index in [3, 0, 2, 1] {
        let payload = &frame[plan.payload(index)];
        plan.write_headers(index, &mut headers, Sum::of(payload))
            .unwrap();
        let segment = receive(&[&headers, payload].concat());
        assert_eq!(segment.ipv4_id, Some(FIRST_ID.wrapping_add(index as u16)));
    }
    assert!(plan.payload(4).is_empty() && plan.payload(usize::MAX).is_empty());
    let short = plan.write_headers(0, &mut headers[..40], Sum::new());
    assert_eq!(short, Err(DropReason::GsoMismatch));
}

#[test]
fn refuses_what_it_cannot_cut() {
    let packet = Packet::new(false, false, 5000);
    let frame = packet.partial();
    let gso = packet.gso(1400);
    let refusal = |header: VnetHeader, out: usize| {
        Segmenter::new(&frame, &header, &mut vec![0; out])
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(refusal(packet.needs_csum(), 2000), DropReason::Unrepairable);
    assert_eq!(
        refusal(VnetHeader { flags: 0, ..gso }, 2000),
        DropReason::GsoWithoutChecksum
    );
    assert_eq!(
        refusal(VnetHeader { gso_type: 5, ..gso }, 2000),
        DropReason::GsoMismatch
    );
    assert_eq!(
        refusal(VnetHeader { gso_size: 0, ..gso }, 2000),
        DropReason::BadGso
    );
    assert_eq!(
        refusal(gso, 1453),
        DropReason::Unrepairable,
        "no room for a segment"
    );
    assert!(Segmenter::new(&frame, &gso, &mut [0; 1454]).is_ok());
}

prop_compose! {
    fn any_packet()(
        tags in 0_usize..=2, v6: bool, udp: bool, len in 0_usize..20_000,
        ip_words in 0_usize..=10, tcp_words in 0_usize..=10,
        extensions in prop::sample::select(vec![vec![], vec![0], vec![43], vec![60], vec![0, 60, 43]]),
        flags: u8,
        seed: u8,
    ) -> Packet {
        let mut packet = Packet::new(v6, udp, len).tagged(tags);
        packet.ip_options = 4 * ip_words;
        packet.tcp_options = 4 * tcp_words;
        packet.extensions = extensions;
        packet.flags = flags | ACK;
        packet.payload.iter_mut().for_each(|byte| *byte ^= seed);
        packet
    }
}

proptest! {
    #[test]
    fn segments_make_up_the_frame(packet in any_packet(), gso_size in 64_u16..9000) {
        let frame = packet.partial();
        let mut head = frame[..frame.len().min(128)].to_vec();
        let checked = packet.gso(gso_size).check(frame.len(), &mut head, Origin::Guest).unwrap();
        let many = packet.payload.len() > usize::from(gso_size);
        prop_assert_eq!(checked, if many { packet.gso(gso_size) } else { packet.needs_csum() });
        let segments = cut(&packet, &packet.gso(gso_size));
        prop_assert_eq!(joined(&segments), packet.payload);
        for segment in &segments[..segments.len() - 1] {
            prop_assert_eq!(segment.payload.len(), usize::from(gso_size));
        }
    }

    /// Whatever passes the check can be cut, harmed as the packet may be.
    #[test]
    fn checked_frames_can_be_cut(
        packet in any_packet(), gso_size in 1_u16..3000,
        harm in prop::collection::vec((12_usize..100, any::<u8>()), 0..4),
    ) {
        let mut frame = packet.partial();
        for (at, value) in harm {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        let mut head = frame[..frame.len().min(128)].to_vec();
        let result = packet.gso(gso_size).check(frame.len(), &mut head, Origin::Guest);
        if let Ok(checked) = result && let Some(max) = checked.max_segment_len() {
            let mut out = vec![0; max as usize];
            let mut segmenter = Segmenter::new(&frame, &checked, &mut out).unwrap();
            let (mut count, mut bytes) = (0, 0);
            while let Some(segment) = segmenter.next() {
                count += 1;
                bytes += segment.len() - usize::from(checked.hdr_len);
            }
            prop_assert_eq!(count, segmenter.plan().segments());
            prop_assert_eq!(bytes + usize::from(checked.hdr_len), frame.len());
        }
    }

    #[test]
    fn arbitrary_never_panics(
        frame in prop::collection::vec(any::<u8>(), 0..300),
        ethertype in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100]),
        version in prop::sample::select(vec![0x45_u8, 0x46, 0x60]),
        next in prop::sample::select(vec![0_u8, 6, 17]),
        gso_type: u8, gso_size in 0_u16..400, csum_start in 30_u16..80, out in 0_usize..400,
    ) {
        let mut frame = frame;
        for (at, value) in [(14, version), (20, next), (23, next)] {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        if let Some(field) = frame.get_mut(12..14) {
            field.copy_from_slice(&ethertype.to_be_bytes());
        }
        let header = VnetHeader { flags: 1, gso_type, gso_size, csum_start, csum_offset: 16, ..VnetHeader::default() };
        if let Ok(mut segmenter) = Segmenter::new(&frame, &header, &mut vec![0; out]) {
            while segmenter.next().is_some() {}
        }
    }
}
