//! Announcing where an address is now: a reverse ARP request to everybody, from which switches learn
//! the way to a guest that has just arrived by migration (`docs/architecture.md`, "Announcements").
//!
//! The frames are made as the guest would have sent them, so the relay classifies, learns and floods
//! them like its own.

use crate::frame::ethernet::{TPID_C, Tag, Vid};
use crate::frame::mac::Mac;
use crate::relay::VlanConfig;

/// Type of a reverse ARP frame (RFC 903).
const TYPE_RARP: u16 = 0x8035;
/// Operation "request reverse".
const REQUEST_REVERSE: u16 = 3;
/// The shortest Ethernet frame, without its check sequence.
const MIN_FRAME: usize = 60;

/// The announcement of `mac` in the VLAN `vid` of its relay, as it comes from a port with these
/// VLANs.
pub fn frame(mac: Mac, vid: Option<Vid>, port: &VlanConfig) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MIN_FRAME + 4);
    frame.extend(Mac::BROADCAST.octets());
    frame.extend(mac.octets());
    if let Some(vid) = tag_on(port, vid) {
        frame.extend(Tag::new(TPID_C, vid, 0, false).to_bytes());
    }
    let min = MIN_FRAME + (frame.len() - 12);
    let words = [TYPE_RARP, 1, 0x0800, 0x0604, REQUEST_REVERSE];
    frame.extend(words.into_iter().flat_map(u16::to_be_bytes));
    for _ in ["sender", "target"] {
        frame.extend(mac.octets());
        frame.extend([0; 4]);
    }
    frame.resize(min, 0);
    frame
}

/// The VID with which frames of the relay's VLAN `vid` are tagged on the port.
fn tag_on(port: &VlanConfig, vid: Option<Vid>) -> Option<Vid> {
    match port {
        VlanConfig::Flat | VlanConfig::Access(_) | VlanConfig::Qinq(_) => None,
        VlanConfig::Trunk { native, .. } => vid.filter(|_| vid != *native),
        VlanConfig::Translate(pairs) => pairs
            .iter()
            .find(|(_, inside)| Some(**inside) == vid)
            .map(|(outside, _)| *outside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::VidSet;

    const MAC: Mac = Mac::new([0x52, 0x54, 0, 0, 0, 7]);

    fn vid(number: u16) -> Option<Vid> {
        Vid::new(number)
    }

    #[test]
    fn an_untagged_announcement_has_sixty_bytes() {
        let bytes = frame(MAC, None, &VlanConfig::Flat);
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..6], [0xff; 6]);
        assert_eq!(bytes[6..12], MAC.octets());
        assert_eq!(bytes[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
        assert_eq!(bytes[22..28], MAC.octets());
        assert_eq!(bytes[32..38], MAC.octets());
    }

    #[test]
    fn the_tag_is_the_one_that_the_port_uses() {
        let trunk = VlanConfig::Trunk {
            vids: VidSet::new(),
            native: vid(1),
        };
        let translate = VlanConfig::Translate([(vid(10).unwrap(), vid(110).unwrap())].into());
        for (port, inside, outside) in [
            (&VlanConfig::Access(vid(5).unwrap()), 5, None),
            (&trunk, 1, None),
            (&trunk, 7, Some(7)),
            (&translate, 110, Some(10)),
        ] {
            let bytes = frame(MAC, vid(inside), port);
            match outside {
                None => assert_eq!(bytes[12..14], [0x80, 0x35]),
                Some(vid) => {
                    assert_eq!(bytes.len(), 64);
                    assert_eq!(bytes[12..18], [0x81, 0, 0, vid, 0x80, 0x35]);
                }
            }
        }
    }
}
