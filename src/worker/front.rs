//! What a copy of a frame begins with: the virtio-net header and, where tags change, the addresses and the tag behind
//! them. The rest of the head is copied from where it lies.

use crate::frame::ethernet::{TAG_LEN, TagAction};
use crate::frame::vnet::VnetHeader;

/// Length of the two addresses, behind which the outermost tag stands.
const ADDRESSES: usize = 12;

/// The front of copies that differ in nothing but their addresses.
pub struct Front {
    bytes: [u8; VnetHeader::LEN + ADDRESSES + TAG_LEN],
    /// How many of them there are.
    len: usize,
    /// Where the addresses stand, and how many bytes of a head this stands for; none where tags stay as they are.
    addresses: Option<(usize, usize)>,
}

impl Front {
    /// For copies with this header, of `header_len` bytes, and this change of tags.
    #[inline]
    pub fn new((header, header_len): (VnetHeader, usize), action: TagAction) -> Self {
        let mut bytes = [0; VnetHeader::LEN + ADDRESSES + TAG_LEN];
        bytes[..VnetHeader::LEN].copy_from_slice(&header.encode());
        let mut front = Self {
            bytes,
            len: header_len,
            addresses: None,
        };
        if !action.is_keep() {
            let popped = if action.pop { TAG_LEN } else { 0 };
            front.addresses = Some((header_len, ADDRESSES + popped));
            front.len += ADDRESSES;
            if let Some(tag) = action.push {
                front.bytes[front.len..][..TAG_LEN].copy_from_slice(&tag.to_bytes());
                front.len += TAG_LEN;
            }
        }
        front
    }

    /// The front of a copy of the frame with this head, and what of the head is behind it; none for a head that lacks
    /// the tag that is to go.
    #[inline]
    pub fn of<'h>(&mut self, head: &'h [u8]) -> Option<(&[u8], &'h [u8])> {
        let Some((at, behind)) = self.addresses else {
            return Some((&self.bytes[..self.len], head));
        };
        let (replaced, rest) = head.split_at_checked(behind)?;
        self.bytes[at..at + ADDRESSES].copy_from_slice(&replaced[..ADDRESSES]);
        Some((&self.bytes[..self.len], rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ethernet::Tag;

    const HEAD: [u8; 20] = [
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x81, 0, 0, 7, 8, 0, 0xaa, 0xbb,
    ];

    #[test]
    fn front_and_rest_are_what_the_action_makes_of_a_head() {
        let tag = Some(Tag {
            tpid: 0x88a8,
            tci: 0x600a,
        });
        for header_len in [VnetHeader::LEGACY_LEN, VnetHeader::LEN] {
            for (pop, push) in [(false, None), (true, None), (false, tag), (true, tag)] {
                let action = TagAction { pop, push };
                let header = VnetHeader::PLAIN;
                let mut front = Front::new((header, header_len), action);
                let mut changed = [0; 64];
                let len = action.apply(&HEAD, &mut changed).unwrap();
                let expected = [&header.encode()[..header_len], &changed[..len]].concat();
                for _ in 0..2 {
                    let (front, rest) = front.of(&HEAD).unwrap();
                    assert_eq!([front, rest].concat(), expected, "{header_len} {action:?}");
                }
            }
        }
    }

    #[test]
    fn a_head_without_the_tag_that_is_to_go_has_no_front() {
        let pop = TagAction {
            pop: true,
            push: None,
        };
        let mut front = Front::new((VnetHeader::PLAIN, VnetHeader::LEN), pop);
        assert!(front.of(&HEAD[..15]).is_none());
        assert!(front.of(&HEAD[..16]).is_some());
    }
}
