use super::super::testing::Packet;
use super::*;

fn locate(packet: &Packet) -> Option<Layers> {
    Layers::locate(&packet.partial())
}

#[test]
fn transport_of_ipv4_tcp_is_at_34_38_42() {
    for (tags, expected) in [(0, 34), (1, 38), (2, 42)] {
        let layers = locate(&Packet::new(false, false, 0).tagged(tags)).unwrap();
        assert_eq!((layers.l4, layers.protocol), (expected, protocol::TCP));
    }
}

#[test]
fn every_tag_and_option_count() {
    for tags in 0..=2 {
        for words in 0..=10 {
            let mut packet = Packet::new(false, true, 3).tagged(tags);
            packet.ip_options = 4 * words;
            let layers = locate(&packet).unwrap();
            assert_eq!((layers.l3, layers.l4), (packet.l3(), packet.l4()));
            assert_eq!(
                (layers.network, layers.protocol),
                (Network::V4, protocol::UDP)
            );
        }
        for extensions in [
            vec![],
            vec![0],
            vec![60],
            vec![0, 43, 60],
            vec![0, 60, 43, 60],
        ] {
            let mut packet = Packet::new(true, false, 3).tagged(tags);
            packet.extensions = extensions;
            let layers = locate(&packet).unwrap();
            assert_eq!((layers.l3, layers.l4), (packet.l3(), packet.l4()));
            assert_eq!(
                (layers.network, layers.protocol),
                (Network::V6, protocol::TCP)
            );
            assert!(!layers.en_route && !layers.fragment);
        }
    }
}

#[test]
fn third_tag_hides_the_packet() {
    let mut packet = Packet::new(false, false, 0);
    packet.tags = vec![0x8100; 3];
    assert_eq!(locate(&packet), None);
    assert_eq!(network_start(&packet.partial()), Some((22, 0x8100)));
}

#[test]
fn fragments_of_ipv4() {
    for (field, fragment) in [
        (0x0000_u16, false),
        (0x4000, false), // don't fragment
        (0x8000, false), // reserved
        (0x2000, true),
        (0x0001, true),
        (0x1fff, true),
    ] {
        let mut frame = Packet::new(false, false, 8).partial();
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        assert_eq!(
            Layers::locate(&frame).unwrap().fragment,
            fragment,
            "{field:#06x}"
        );
    }
}

#[test]
fn fragment_and_routing_headers_of_ipv6() {
    let mut packet = Packet::new(true, false, 8);
    packet.extensions = vec![0, 44];
    assert!(locate(&packet).unwrap().fragment);
    packet.extensions = vec![0, 43];
    let mut frame = packet.partial();
    assert!(!Layers::locate(&frame).unwrap().en_route);
    frame[14 + 40 + 8 + 3] = 1;
    assert!(Layers::locate(&frame).unwrap().en_route);
}

#[test]
fn wrong_versions_and_short_headers() {
    for v6 in [false, true] {
        let frame = Packet::new(v6, false, 0).partial();
        let fixed = if v6 { 54 } else { 34 };
        for len in 0..frame.len() {
            assert_eq!(Layers::locate(&frame[..len]).is_some(), len >= fixed);
        }
        for version in 0..16 {
            let mut frame = frame.clone();
            frame[14] = frame[14] & 0x0f | version << 4;
            let right = version == if v6 { 6 } else { 4 };
            assert_eq!(Layers::locate(&frame).is_some(), right);
        }
    }
    let mut frame = Packet::new(false, false, 0).partial();
    for ihl in 0..16 {
        frame[14] = 0x40 | ihl;
        assert_eq!(Layers::locate(&frame).is_some(), ihl >= 5);
    }
}
