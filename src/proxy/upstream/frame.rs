//! A request's form for the version of HTTP that its connection speaks, whichever it came in on.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Uri, Version};
use http_body::Body;

use super::lease::LeaseVersion;
use super::{Transport, UpstreamSpec};

/// Marks a request whose client takes trailers; goes into its extensions.
#[derive(Debug, Clone, Copy)]
pub struct TakesTrailers;

/// Gives a request the form that a connection asks for. Its target is in origin form, and it has a Host.
pub(in crate::proxy) fn frame<B: Body>(request: &mut Request<B>, version: LeaseVersion, spec: &UpstreamSpec) {
    let scheme = match &spec.transport {
        Transport::Tls(_) => Scheme::HTTPS,
        Transport::Tcp | Transport::H2c | Transport::Unix(_) => Scheme::HTTP,
    };
    match version {
        LeaseVersion::Http1 => frame_as_http1(request),
        LeaseVersion::Http2 => frame_as_http2(request, scheme),
    }
}

/// A body of a length that nobody told is chunked; hyper would leave it out.
fn frame_as_http1<B: Body>(request: &mut Request<B>) {
    if std::mem::replace(request.version_mut(), Version::HTTP_11) == Version::HTTP_2 {
        request.headers_mut().remove(TE);
    }
    // One that comes back from an HTTP/2 connection.
    if let Some(host) = request.uri().authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    let body = request.body();
    let has_length = body.is_end_stream() || body.size_hint().exact().is_some();
    if !has_length {
        request.headers_mut().remove(CONTENT_LENGTH);
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The host goes into `:authority` (RFC 9113 section 8.3.1), and what `TE` says of trailers is said anew (section
/// 8.2.2; H2).
fn frame_as_http2<B>(request: &mut Request<B>, scheme: Scheme) {
    *request.version_mut() = Version::HTTP_2;
    // Another protocol cannot be asked for here (section 8.6).
    request.headers_mut().remove(CONNECTION);
    request.headers_mut().remove(UPGRADE);
    let takes_trailers = request.extensions().get::<TakesTrailers>().is_some();
    let authority = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(authority) = authority {
        let target = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
            request.headers_mut().remove(HOST);
        }
    }
    if takes_trailers {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
}
