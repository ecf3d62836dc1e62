//! A frame on its way: the worker's copy of its first bytes, and where the rest lies.
//!
//! The first bytes are read from the guest once. Every decision uses this copy, and it is what is
//! written out, so a guest cannot change an address or a tag after it was checked.
//!
//! Frames are filled where they stay: [`Frames`] keeps its places from burst to burst, and nothing of
//! what they held before is cleared.

use std::ops::Deref;

use crate::frame::ethernet::{Header, TagAction};
use crate::frame::offloads::{Offloads, Repair, repair_needed};
use crate::frame::vnet::{Origin, VnetHeader};
use crate::stats::DropReason;
use crate::virtqueue::{self, Segment};

/// Bytes of a frame that are copied and classified.
pub const HEAD: usize = 128;
/// Bytes of the longest head: with room for tags that patch links add on the way.
pub const MAX_HEAD: usize = HEAD + 16;
/// Bytes of the longest frame: 64 KiB of IP packet, its Ethernet header, and tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;

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
    /// What a receiver must be able to do to take it as it is.
    requires: Offloads,
    /// Where the part that is not in the head begins, counted in the bytes of the chain or frame.
    pub rest_at: usize,
    head_len: usize,
    head: [u8; MAX_HEAD],
}

impl Frame {
    const EMPTY: Self = Self {
        chain: 0,
        vnet: VnetHeader::PLAIN,
        header: Header::EMPTY,
        len: 0,
        segment_len: None,
        requires: Offloads::NONE,
        rest_at: 0,
        head_len: 0,
        head: [0; MAX_HEAD],
    };

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

    /// Whether a virtio-net header would say nothing of it.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.vnet.flags == 0 && self.vnet.gso_type == 0
    }

    /// Reads chain number `chain` of a burst, `chain_len` bytes in `segments` that begin with a
    /// virtio-net header of `header_len` bytes: its first bytes, once.
    ///
    /// # Errors
    ///
    /// What is wrong with the header, or `Runt` or `TooLong`.
    #[inline]
    pub fn read_chain(
        &mut self,
        (chain, chain_len): (usize, u32),
        segments: &[Segment<'_>],
        (header_len, origin): (usize, Origin),
    ) -> Result<(), DropReason> {
        let len = (chain_len as usize)
            .checked_sub(header_len)
            .ok_or(DropReason::BadHeader)?;
        if len > MAX_FRAME {
            return Err(DropReason::TooLong);
        }
        // Flags, type of segmentation, length of headers: without any of these nothing else counts. Nor
        // does the field that a legacy header lacks.
        let head = &mut self.head[..len.min(HEAD)];
        let (front, head_len) = virtqueue::read_start(segments, header_len, head);
        self.head_len = head_len;
        self.rest_at = header_len + self.head_len;
        self.chain = chain;
        self.len = len;
        self.take_plain();
        if front != [0; 4] {
            let mut fields = [0; VnetHeader::LEGACY_LEN];
            fields[..4].copy_from_slice(&front);
            fields[4..].copy_from_slice(&virtqueue::read_array::<6>(segments, 4));
            self.take_header(VnetHeader::decode_legacy(&fields), origin)?;
        }
        self.header.read(&self.head[..self.head_len])
    }

    /// Takes over frame number `number` of a burst, which has `len` bytes and begins with `head`.
    ///
    /// # Errors
    ///
    /// What is wrong with the header, or `Runt`.
    pub fn read_bytes(
        &mut self,
        number: usize,
        vnet: VnetHeader,
        head: &[u8],
        len: usize,
    ) -> Result<(), DropReason> {
        let head = &head[..head.len().min(HEAD)];
        self.head[..head.len()].copy_from_slice(head);
        self.head_len = head.len();
        self.rest_at = head.len();
        self.chain = number;
        self.len = len;
        self.take_header(vnet, Origin::Uplink)?;
        self.header.read(&self.head[..self.head_len])
    }

    /// Nothing is left to be done to the frame.
    #[inline]
    fn take_plain(&mut self) {
        self.vnet = VnetHeader::PLAIN;
        self.segment_len = None;
        self.requires = Offloads::NONE;
    }

    /// Checks a header that says something.
    #[inline(never)]
    fn take_header(&mut self, vnet: VnetHeader, origin: Origin) -> Result<(), DropReason> {
        let head = &mut self.head[..self.head_len];
        self.vnet = vnet.check(self.len, head, origin)?;
        self.segment_len = self.vnet.max_segment_len();
        self.requires = Offloads::required(&self.vnet, head);
        Ok(())
    }

    /// What it needs before a receiver with these offloads can take it.
    #[inline]
    pub fn repair(&self, receiver: Offloads) -> Repair {
        if receiver.contains(self.requires) {
            Repair::None
        } else {
            repair_needed(&self.vnet, self.head(), receiver)
        }
    }

    /// The virtio-net header for a receiver that takes the frame as it is.
    #[inline]
    pub fn header_for(&self, receiver: Offloads) -> VnetHeader {
        if self.is_plain() {
            VnetHeader::PLAIN
        } else {
            self.vnet.for_receiver(Repair::None, receiver)
        }
    }

    /// This frame with its tags changed as `action` says.
    ///
    /// # Errors
    ///
    /// `TooManyTags` where a chain of patch links has pushed more tags than there is room for.
    pub fn retagged(&self, action: TagAction) -> Result<Self, DropReason> {
        let mut frame = self.clone();
        frame.head_len = action
            .apply(self.head(), &mut frame.head)
            .ok_or(DropReason::TooManyTags)?;
        frame.len = self.len - self.head_len + frame.head_len;
        frame.vnet.retag(action.growth().into());
        frame.segment_len = frame.vnet.max_segment_len();
        frame.header.read(&frame.head[..frame.head_len])?;
        Ok(frame)
    }
}

/// The forms of the frames of a burst.
#[derive(Default)]
pub struct Frames {
    places: Vec<Frame>,
    len: usize,
}

impl Frames {
    /// Forgets them all.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds the frame that `fill` makes of a place, which holds anything, and returns its index.
    ///
    /// # Errors
    ///
    /// Those of `fill`; then there is no frame more.
    #[inline]
    pub fn add<E>(&mut self, fill: impl FnOnce(&mut Frame) -> Result<(), E>) -> Result<usize, E> {
        if self.len == self.places.len() {
            self.places.push(Frame::EMPTY);
        }
        fill(&mut self.places[self.len])?;
        self.len += 1;
        Ok(self.len - 1)
    }

    /// Adds the frames that `fill` makes of places, which hold anything: one for each of `items` for which it says that
    /// it did.
    #[inline]
    pub fn add_all<I>(
        &mut self,
        items: impl ExactSizeIterator<Item = I>,
        mut fill: impl FnMut(&mut Frame, I) -> bool,
    ) {
        let most = self.len + items.len();
        if self.places.len() < most {
            self.places.resize(most, Frame::EMPTY);
        }
        for item in items {
            let Some(place) = self.places.get_mut(self.len) else {
                break;
            };
            self.len += usize::from(fill(place, item));
        }
    }

    /// Adds a copy of a frame and returns its index.
    pub fn push(&mut self, frame: &Frame) -> usize {
        let index = self.len;
        match self.places.get_mut(index) {
            Some(place) => place.clone_from(frame),
            None => self.places.push(frame.clone()),
        }
        self.len += 1;
        index
    }

    /// Changes in which chain the frames lie.
    pub fn move_to(&mut self, chain: usize) {
        for frame in &mut self.places[..self.len] {
            frame.chain = chain;
        }
    }
}

impl Deref for Frames {
    type Target = [Frame];

    #[inline]
    fn deref(&self) -> &[Frame] {
        &self.places[..self.len]
    }
}
