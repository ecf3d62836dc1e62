//! The reservations of an RX ring that were not published yet, in the order they were made.
//!
//! Writers finish in any order; ranges leave from the oldest on. The ledger has at least as many places as
//! the ring has slots, a power of two: a division for each place would cost as much as all else here. It allocates only
//! when it is made. It lives under the ring's lock.

use super::spot::Spot;

/// A consecutive part of the used ring. Small: a ring has room for as many as it has slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub from: Spot,
    pub slots: u16,
}

/// Names a reservation from `push` until it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Ledger {
    ranges: Box<[Option<(Range, bool)>]>,
    oldest: u64,
    next: u64,
}

impl Ledger {
    /// Has places for `least` reservations, or some more.
    pub fn new(least: usize) -> Ledger {
        Ledger {
            ranges: vec![None; least.next_power_of_two()].into_boxed_slice(),
            oldest: 0,
            next: 0,
        }
    }

    pub fn is_full(&self) -> bool {
        self.next - self.oldest == self.ranges.len() as u64
    }

    /// Whether there is no reservation.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next == self.oldest
    }

    pub fn push(&mut self, range: Range) -> Ticket {
        debug_assert!(!self.is_full());
        let ticket = Ticket(self.next);
        *self.place(ticket) = Some((range, false));
        self.next += 1;
        ticket
    }

    pub fn is_newest(&self, ticket: Ticket) -> bool {
        ticket.0 + 1 == self.next
    }

    /// Shortens the newest reservation.
    pub fn shorten(&mut self, ticket: Ticket, slots: u16) {
        debug_assert!(self.is_newest(ticket));
        if let Some((range, _)) = self.place(ticket) {
            range.slots = slots;
        }
    }

    /// Takes the newest reservation back.
    pub fn withdraw(&mut self, ticket: Ticket) {
        debug_assert!(self.is_newest(ticket));
        *self.place(ticket) = None;
        self.next = ticket.0;
    }

    pub fn finish(&mut self, ticket: Ticket) {
        if let Some((_, finished)) = self.place(ticket) {
            *finished = true;
        }
    }

    /// The oldest reservation, if it is finished.
    pub fn pop(&mut self) -> Option<Range> {
        let place = self.place(Ticket(self.oldest));
        let Some((range, true)) = *place else {
            return None;
        };
        *place = None;
        self.oldest += 1;
        Some(range)
    }

    fn place(&mut self, ticket: Ticket) -> &mut Option<(Range, bool)> {
        let mask = self.ranges.len() - 1;
        &mut self.ranges[ticket.0 as usize & mask]
    }
}
