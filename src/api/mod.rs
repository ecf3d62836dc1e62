//! (room: api)
