//! Carrying out a [`TagAction`] on the first bytes of a frame.

use super::ethernet::{TAG_LEN, TagAction};

/// Where the outermost tag stands: behind the two addresses.
const TAG_AT: usize = 12;

impl TagAction {
    /// Whether the frame stays as it is.
    #[inline]
    pub fn is_keep(self) -> bool {
        !self.pop && self.push.is_none()
    }

    /// Writes `head` with its tags changed to the front of `out` and returns how many bytes that
    /// are; `None` if they do not fit, or if there is no tag to remove.
    #[inline]
    pub fn apply(self, head: &[u8], out: &mut [u8]) -> Option<usize> {
        let (addresses, rest) = head.split_at_checked(TAG_AT)?;
        let rest = if self.pop { rest.get(TAG_LEN..)? } else { rest };
        out.get_mut(..TAG_AT)?.copy_from_slice(addresses);
        let mut at = TAG_AT;
        if let Some(tag) = self.push {
            out.get_mut(at..at + TAG_LEN)?
                .copy_from_slice(&tag.to_bytes());
            at += TAG_LEN;
        }
        out.get_mut(at..at + rest.len())?.copy_from_slice(rest);
        Some(at + rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ethernet::Tag;

    const ADDRESSES: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn frame(behind: &[u8]) -> Vec<u8> {
        [&ADDRESSES, behind].concat()
    }

    fn applied(action: TagAction, head: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; 64];
        action.apply(head, &mut out).map(|len| out[..len].to_vec())
    }

    #[test]
    fn tags_are_pushed_popped_and_replaced() {
        let push = Some(Tag {
            tpid: 0x8100,
            tci: 0x600a,
        });
        let tagged = frame(&[0x88, 0xa8, 0, 5, 8, 0, 0xaa]);
        let plain = frame(&[8, 0, 0xaa]);
        for (pop, push, head, expected) in [
            (false, None, &plain, plain.clone()),
            (
                false,
                push,
                &plain,
                frame(&[0x81, 0, 0x60, 0x0a, 8, 0, 0xaa]),
            ),
            (true, None, &tagged, plain.clone()),
            (
                true,
                push,
                &tagged,
                frame(&[0x81, 0, 0x60, 0x0a, 8, 0, 0xaa]),
            ),
        ] {
            assert_eq!(applied(TagAction { pop, push }, head), Some(expected));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let push = Some(Tag {
            tpid: 0x8100,
            tci: 1,
        });
        assert_eq!(
            applied(
                TagAction {
                    pop: true,
                    push: None
                },
                &frame(&[8, 0])
            ),
            None
        );
        assert_eq!(
            applied(TagAction { pop: false, push }, &ADDRESSES[..11]),
            None
        );
        assert_eq!(applied(TagAction { pop: false, push }, &[0; 61]), None);
    }
}
