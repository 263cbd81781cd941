//! When two policies are the same.

use std::sync::Arc;

use super::ScopeSource;

/// Functions are equal when they are the same one under the same name.
impl PartialEq for ScopeSource {
    fn eq(&self, other: &ScopeSource) -> bool {
        use ScopeSource::{Anonymous, ClientCert, Cookie, Credentials, Custom, Header, Host, Path, Query};
        match (self, other) {
            (Host, Host) | (Credentials, Credentials) | (ClientCert, ClientCert) | (Anonymous, Anonymous) => true,
            (Header(one), Header(other)) => one == other,
            (Cookie(one), Cookie(other)) | (Path(one), Path(other)) | (Query(one), Query(other)) => one == other,
            (Custom { name, find }, Custom { name: other_name, find: other_find }) => {
                name == other_name && Arc::ptr_eq(find, other_find)
            }
            (Host | Credentials | ClientCert | Anonymous, _)
            | (Header(_) | Cookie(_) | Path(_) | Query(_) | Custom { .. }, _) => false,
        }
    }
}
