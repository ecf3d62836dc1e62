//! The filtering database.

/// The filtering database of one relay.
#[derive(Debug)]
pub struct Fdb {
    max_entries: u32,
}

impl Fdb {
    /// An empty database for up to `max_entries` learned and static addresses.
    pub fn new(max_entries: u32) -> Fdb {
        Fdb { max_entries }
    }

    /// How many learned and static addresses it was made for.
    pub fn max_entries(&self) -> u32 {
        self.max_entries
    }
}
