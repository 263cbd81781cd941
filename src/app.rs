//! The application: a configuration made into stores, a ledger, a stack per route, and servers, and drained.
