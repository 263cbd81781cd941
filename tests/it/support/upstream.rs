//! A scripted, counting upstream.
