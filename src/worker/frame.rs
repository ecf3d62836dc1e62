//! A frame on its way: the worker's copy of its first bytes, and where the rest lies.
//!
//! The first bytes are read from the guest once. Every decision uses this copy, and it is what is
//! written out, so a guest cannot change an address or a tag after it was checked.

use crate::frame::ethernet::{self, Header, TagAction};
use crate::frame::vnet::VnetHeader;
use crate::stats::DropReason;

/// Bytes of a frame that are copied and classified.
pub const HEAD: usize = 128;
/// Bytes of the longest head: with room for tags that patch links add on the way.
pub const MAX_HEAD: usize = HEAD + 16;

/// One form of a frame. A patch link may change its tags, which makes another form.
#[derive(Clone)]
pub struct Frame {
    /// Which chain, or which frame of a link, of the burst holds the bytes behind the head.
    pub chain: usize,
    /// The virtio-net header, checked.
    pub vnet: VnetHeader,
    /// Addresses and outer tag.
    pub header: Header,
    /// Bytes of the whole frame.
    pub len: usize,
    /// Longest frame on the wire that a GSO frame stands for; `None` for others.
    pub segment_len: Option<u32>,
    /// Where the part that is not in the head begins, counted in the bytes of the chain or frame.
    pub rest_at: usize,
    head: [u8; MAX_HEAD],
    head_len: usize,
}

impl Frame {
    /// The first bytes: all that decisions are made from.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// Bytes that follow the head.
    #[inline]
    pub fn rest_len(&self) -> usize {
        self.len - self.head_len
    }

    /// Takes over `head`, which was read from a frame of `len` bytes.
    ///
    /// # Errors
    ///
    /// `Runt` for a frame that is too short for its Ethernet header.
    pub fn new(
        chain: usize,
        vnet: VnetHeader,
        head: &[u8],
        len: usize,
        rest_at: usize,
    ) -> Result<Self, DropReason> {
        let header = ethernet::parse(head)?;
        let mut bytes = [0; MAX_HEAD];
        bytes[..head.len()].copy_from_slice(head);
        let segment_len = vnet.max_segment_len();
        Ok(Self {
            chain,
            vnet,
            header,
            len,
            segment_len,
            rest_at,
            head: bytes,
            head_len: head.len(),
        })
    }

    /// This frame with its tags changed as `action` says.
    ///
    /// # Errors
    ///
    /// `TooManyTags` where a chain of patch links has pushed more tags than there is room for.
    pub fn retagged(&self, action: TagAction) -> Result<Self, DropReason> {
        let mut frame = self.clone();
        frame.head_len = action
            .apply(&self.head[..self.head_len], &mut frame.head)
            .ok_or(DropReason::TooManyTags)?;
        frame.len = self.len - self.head_len + frame.head_len;
        frame.vnet.retag(action.growth().into());
        frame.segment_len = frame.vnet.max_segment_len();
        frame.header = ethernet::parse(frame.head())?;
        Ok(frame)
    }
}
