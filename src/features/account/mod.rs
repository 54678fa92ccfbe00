//! A member's own page: profile, sessions, password. It has pages and no rules of its own.

pub mod http;
