//! Ethernet headers and VLAN tags.
//!
//! [`parse`] reads the copy of a frame's first bytes. It recognises the outermost tag and counts
//! the ones behind it, but gives them no meaning: which tag types count is up to the relay.

use std::num::NonZeroU16;

use super::mac::Mac;
use crate::stats::DropReason;

/// Tag type of a C-tag, 802.1Q table 9-1.
pub const TPID_C: u16 = 0x8100;
/// Tag type of an S-tag, 802.1Q table 9-1.
pub const TPID_S: u16 = 0x88a8;
/// Tag types that equipment older than S-tags uses for outer tags.
const TPID_LEGACY: [u16; 3] = [0x9100, 0x9200, 0x9300];
/// Type of an 802.1BR E-tag.
pub const TYPE_ETAG: u16 = 0x893f;
/// LLDP.
pub const TYPE_LLDP: u16 = 0x88cc;
/// Edge control protocol, 802.1Q 43.
pub const TYPE_ECP: u16 = 0x8940;
/// Slow protocols, of which LACP is one.
pub const TYPE_SLOW: u16 = 0x8809;
/// MAC control: pause and priority-based flow control.
pub const TYPE_MAC_CONTROL: u16 = 0x8808;

/// Length of an untagged Ethernet header.
pub const HEADER_LEN: usize = 14;
/// Length of a tag.
pub const TAG_LEN: usize = 4;

/// Whether a type field announces a VLAN tag, of whatever kind.
#[inline]
pub fn is_tpid(ethertype: u16) -> bool {
    ethertype == TPID_C || ethertype == TPID_S || TPID_LEGACY.contains(&ethertype)
}

/// A VLAN identifier that can name a VLAN: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vid(NonZeroU16);

impl Vid {
    /// The highest VID; 4095 is reserved.
    pub const MAX: u16 = 4094;

    /// The VID with this number, unless it is 0 or above 4094.
    pub const fn new(number: u16) -> Option<Vid> {
        match NonZeroU16::new(number) {
            Some(vid) if number <= Vid::MAX => Some(Vid(vid)),
            _ => None,
        }
    }

    /// Its number, 1 to 4094.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl std::fmt::Display for Vid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A VLAN tag as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Tag type.
    pub tpid: u16,
    /// Priority, drop eligibility and VID.
    pub tci: u16,
}

impl Tag {
    /// The tag with these parts.
    pub fn new(tpid: u16, vid: Vid, pcp: u8, dei: bool) -> Tag {
        let tci = u16::from(pcp & 7) << 13 | u16::from(dei) << 12 | vid.get();
        Tag { tpid, tci }
    }

    /// Priority code point.
    pub fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Drop eligible indicator.
    pub fn dei(self) -> bool {
        self.tci & 0x1000 != 0
    }

    /// The VID field, which may be 0 or 4095.
    pub fn vid_raw(self) -> u16 {
        self.tci & 0xfff
    }

    /// The tag as it stands at byte 12 of a frame.
    pub fn to_bytes(self) -> [u8; TAG_LEN] {
        let [a, b] = self.tpid.to_be_bytes();
        let [c, d] = self.tci.to_be_bytes();
        [a, b, c, d]
    }
}

/// What a relay needs to know of a frame's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// The outermost tag, of any kind that [`is_tpid`] knows.
    pub tag: Option<Tag>,
    /// The type field behind the outermost tag. It announces a tag where there is a second one, or
    /// where `tag` is `None` because the frame ends within its tag.
    pub ethertype: u16,
    /// Number of tags in a row, at most 3.
    pub tags: u8,
}

impl Header {
    /// The header of no frame.
    pub const EMPTY: Header = Header {
        dst: Mac::new([0; 6]),
        src: Mac::new([0; 6]),
        tag: None,
        ethertype: 0,
        tags: 0,
    };

    /// Becomes the header of the frame with these first bytes; see [`parse`].
    #[inline]
    pub fn read(&mut self, head: &[u8]) -> Result<(), DropReason> {
        let (fixed, rest) = head
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(DropReason::Runt)?;
        // Two words that overlap: destination and two bytes more, two bytes less and the others.
        let [first @ .., _, _, _, _, _, _] = *fixed;
        let [_, _, _, _, _, _, second @ ..] = *fixed;
        let (first, second) = (u64::from_be_bytes(first), u64::from_be_bytes(second));
        self.dst = Mac::from_u64(first >> 16);
        self.src = Mac::from_u64(second >> 16);
        self.tag = None;
        self.ethertype = second as u16;
        self.tags = 0;
        if is_tpid(self.ethertype) {
            self.read_tags(rest);
        }
        Ok(())
    }

    /// Reads the tags that seem to follow the addresses, behind a type field that announces one; `rest` is what is behind that.
    #[inline]
    fn read_tags(&mut self, rest: &[u8]) {
        let Some(([c0, c1, n0, n1], behind)) = rest.split_first_chunk::<TAG_LEN>() else {
            return;
        };
        self.tag = Some(Tag {
            tpid: self.ethertype,
            tci: u16::from_be_bytes([*c0, *c1]),
        });
        self.ethertype = u16::from_be_bytes([*n0, *n1]);
        self.tags = 1;
        if is_tpid(self.ethertype) {
            self.tags += count_tags(self.ethertype, behind);
        }
    }

    /// The type field at byte 12: the tag type of a tagged frame.
    #[inline]
    pub fn outer_type(&self) -> u16 {
        self.tag.map_or(self.ethertype, |tag| tag.tpid)
    }
}

/// How many tags, at most two, follow one with this type field behind it; `rest` is what is behind that.
#[inline(never)]
fn count_tags(mut ethertype: u16, rest: &[u8]) -> u8 {
    let mut tags = 0;
    for [_, _, next @ ..] in rest.as_chunks::<TAG_LEN>().0.iter().take(2) {
        if !is_tpid(ethertype) {
            break;
        }
        tags += 1;
        ethertype = u16::from_be_bytes(*next);
    }
    tags
}

/// Reads the header of a frame from its first bytes; 26 of them are enough.
pub fn parse(head: &[u8]) -> Result<Header, DropReason> {
    let mut header = Header::EMPTY;
    header.read(head)?;
    Ok(header)
}

/// What egress does at byte 12 of the frame as it was received; the default keeps it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagAction {
    /// Remove the outermost tag.
    pub pop: bool,
    /// Then insert this one.
    pub push: Option<Tag>,
}

impl TagAction {
    /// By how many bytes the frame grows.
    #[inline]
    pub fn growth(self) -> i8 {
        i8::from(self.push.is_some()) * 4 - i8::from(self.pop) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, TPID_C, TPID_S, Tag, TagAction, Vid, parse};
    use crate::frame::mac::Mac;
    use crate::stats::DropReason;

    fn frame(words: &[u16]) -> Vec<u8> {
        let mut bytes = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2];
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        bytes
    }

    fn header(words: &[u16]) -> Header {
        parse(&frame(words)).unwrap()
    }

    #[test]
    fn vids_end_at_4094() {
        assert_eq!(Vid::new(0), None);
        assert_eq!(Vid::new(4095), None);
        assert_eq!(Vid::new(u16::MAX), None);
        assert_eq!((1..=4094).filter_map(Vid::new).count(), 4094);
    }

    #[test]
    fn tags_take_apart_and_put_together() {
        let tag = Tag::new(TPID_C, Vid::new(0x123).unwrap(), 5, true);
        assert_eq!(tag.tci, 0xb123);
        assert_eq!((tag.pcp(), tag.dei(), tag.vid_raw()), (5, true, 0x123));
        assert_eq!(tag.to_bytes(), [0x81, 0, 0xb1, 0x23]);
    }

    #[test]
    fn headers_with_and_without_tags() {
        let plain = header(&[0x0800]);
        assert_eq!(plain.dst, Mac::new([0x52, 0x54, 0, 0, 0, 1]));
        assert_eq!(plain.src, Mac::new([0x52, 0x54, 0, 0, 0, 2]));
        assert_eq!((plain.tag, plain.ethertype, plain.tags), (None, 0x0800, 0));
        assert_eq!(plain.outer_type(), 0x0800);

        let double = header(&[TPID_S, 0x2064, TPID_C, 10, 0x86dd]);
        let outer = Tag {
            tpid: TPID_S,
            tci: 0x2064,
        };
        assert_eq!(double.tag, Some(outer));
        assert_eq!((double.ethertype, double.tags), (TPID_C, 2));
        assert_eq!(double.outer_type(), TPID_S);

        assert_eq!(
            header(&[TPID_C, 1, TPID_C, 2, 0x9100, 3, TPID_C, 4]).tags,
            3
        );
    }

    #[test]
    fn short_frames() {
        let bytes = frame(&[TPID_C, 10, 0x0800]);
        for length in 0..14 {
            assert_eq!(parse(&bytes[..length]), Err(DropReason::Runt));
        }
        for length in 14..18 {
            let cut = parse(&bytes[..length]).unwrap();
            assert_eq!((cut.tag, cut.ethertype, cut.tags), (None, TPID_C, 0));
        }
        let bytes = frame(&[TPID_C, 1, TPID_S, 2, TPID_C, 3, TPID_C, 4]);
        for length in 14..=bytes.len() {
            let cut = parse(&bytes[..length]).unwrap();
            assert_eq!(
                usize::from(cut.tags),
                ((length - 14) / 4).min(3),
                "{length}"
            );
        }
    }

    #[test]
    fn growth_of_actions() {
        let push = Some(Tag {
            tpid: TPID_C,
            tci: 1,
        });
        for (pop, push, growth) in [
            (false, None, 0),
            (true, None, -4),
            (false, push, 4),
            (true, push, 0),
        ] {
            assert_eq!(TagAction { pop, push }.growth(), growth);
        }
    }
}
