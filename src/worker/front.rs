//! What a copy of a frame begins with: the virtio-net header and, where tags change, another tag behind the addresses. These
//! and the rest of the head are copied from where they lie.

use crate::frame::ethernet::{TAG_LEN, Tag, TagAction};
use crate::frame::vnet::VnetHeader;
use crate::virtqueue::{Changed, Start};

/// Length of the two addresses, behind which the outermost tag stands.
const ADDRESSES: usize = 12;

/// The beginning of copies that differ in nothing but their frames.
pub struct Front {
    header: [u8; VnetHeader::LEN],
    header_len: usize,
    /// How tags change; none where they stay as they are.
    change: Option<Change>,
}

/// A change of tags.
struct Change {
    /// The new one.
    tag: Option<[u8; TAG_LEN]>,
    /// How many bytes of a head it takes the place of, with the addresses.
    behind: usize,
}

impl Front {
    /// For copies with this header, of `header_len` bytes, and this change of tags.
    #[inline]
    pub fn new((header, header_len): (VnetHeader, usize), action: TagAction) -> Self {
        let change = (!action.is_keep()).then(|| Change {
            tag: action.push.map(Tag::to_bytes),
            behind: ADDRESSES + if action.pop { TAG_LEN } else { 0 },
        });
        Self {
            header: header.encode(),
            header_len,
            change,
        }
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// The beginning of a copy of the frame with this head; none for a head that lacks the tag that is to go.
    // The parts go to their place one by one: put together here first, they would be read back before they are all written,
    // and a processor waits then for everything that was written before.
    #[inline]
    pub fn of<'h>(&'h self, head: &'h [u8]) -> Option<Start<'h>> {
        let header = self.header();
        let Some(change) = &self.change else {
            return Some(Start::new(header, head));
        };
        let (replaced, rest) = head.split_at_checked(change.behind)?;
        let changed = Changed {
            first: replaced.first_chunk()?,
            second: change.tag.as_ref(),
        };
        Some(Start {
            header,
            changed: Some(changed),
            head: rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                let front = Front::new((header, header_len), action);
                let mut changed = [0; 64];
                let len = action.apply(&HEAD, &mut changed).unwrap();
                let expected = [&header.encode()[..header_len], &changed[..len]].concat();
                let Start {
                    header,
                    changed,
                    head,
                } = front.of(&HEAD).unwrap();
                let first = changed.map_or(&[][..], |changed| changed.first);
                let second = changed.and_then(|changed| changed.second);
                let second = second.map_or(&[][..], |second| second);
                let start = [header, first, second, head].concat();
                assert_eq!(start, expected, "{header_len} {action:?}");
            }
        }
    }

    #[test]
    fn a_head_without_the_tag_that_is_to_go_has_no_front() {
        let pop = TagAction {
            pop: true,
            push: None,
        };
        let front = Front::new((VnetHeader::PLAIN, VnetHeader::LEN), pop);
        assert!(front.of(&HEAD[..15]).is_none());
        assert!(front.of(&HEAD[..16]).is_some());
    }
}
