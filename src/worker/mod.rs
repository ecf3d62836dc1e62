//! (room: worker)
