//! A node's streams, and what each is sent.
