//! (room: api_types)
