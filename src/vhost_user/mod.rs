//! (room: vhost_user)
