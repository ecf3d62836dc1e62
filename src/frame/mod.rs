//! (room: frame)
