//! kill_loop
