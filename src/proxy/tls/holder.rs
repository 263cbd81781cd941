//! Whose certificate it is, byte for byte as the certificate says it (RFC 5280 section 4.1).

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// The version at the front and the extensions at the end, which are tagged by their places.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// id-ce-subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// An element of DER.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// Tag and length included.
    whole: &'a [u8],
}

/// The subject of a certificate in DER, or its alternative names where the subject is empty. The two cannot be taken
/// for each other: a subject's parts are sets, and an alternative name never is.
///
/// Nothing comes back of what is no certificate, or names nobody.
pub(in crate::proxy) fn holder(certificate: &[u8]) -> Option<&[u8]> {
    let mut rest = certificate;
    let mut rest = take(&mut rest, SEQUENCE)?.content;
    let mut fields = take(&mut rest, SEQUENCE)?.content;
    if fields.first() == Some(&VERSION) {
        next(&mut fields)?;
    }
    // Serial number, signature's algorithm, issuer, validity.
    for _ in 0..4 {
        next(&mut fields)?;
    }
    let subject = take(&mut fields, SEQUENCE)?;
    if !subject.content.is_empty() {
        return Some(subject.whole);
    }
    while !fields.is_empty() {
        let field = next(&mut fields)?;
        if field.tag == EXTENSIONS {
            return alternative_names(field.content);
        }
    }
    None
}

fn alternative_names(mut extensions: &[u8]) -> Option<&[u8]> {
    let mut list = take(&mut extensions, SEQUENCE)?.content;
    while !list.is_empty() {
        let mut extension = take(&mut list, SEQUENCE)?.content;
        if take(&mut extension, OBJECT_IDENTIFIER)?.content != SUBJECT_ALT_NAME {
            continue;
        }
        let mut value = next(&mut extension)?;
        if value.tag != OCTET_STRING {
            // Whether it is critical stands before it.
            value = take(&mut extension, OCTET_STRING)?;
        }
        let mut value = value.content;
        let names = take(&mut value, SEQUENCE)?;
        return Some(names.whole).filter(|_| !names.content.is_empty());
    }
    None
}

/// Takes the next element, which has to have this tag.
fn take<'a>(rest: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    next(rest).filter(|element| element.tag == tag)
}

/// Takes the next element.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let (&[tag, first], behind) = rest.split_first_chunk()?;
    let (length, header) = match usize::from(first) {
        length @ ..0x80 => (length, 2),
        long => {
            let digits = behind.get(..long - 0x80).filter(|digits| (1..=4).contains(&digits.len()))?;
            let length = digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit));
            (length, 2 + digits.len())
        }
    };
    let (whole, behind) = rest.split_at_checked(header.checked_add(length)?)?;
    *rest = behind;
    Some(Element { tag, content: &whole[header..], whole })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(common_name: Option<&str>, names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_holder_is_the_subject_byte_for_byte() {
        let found = certificate(Some("till 7"), &["till.test"]);
        let expected = b"\x30\x11\x31\x0f\x30\x0d\x06\x03\x55\x04\x03\x0c\x06till 7";
        assert_eq!(holder(&found), Some(&expected[..]));
    }

    #[test]
    fn without_a_subject_the_holder_is_the_alternative_names() {
        let found = certificate(None, &["a.test"]);
        assert_eq!(holder(&found), Some(&b"\x30\x08\x82\x06a.test"[..]));
        assert_eq!(holder(&certificate(None, &[])), None);
    }

    #[test]
    fn what_is_cut_anywhere_is_no_certificate() {
        let whole = certificate(None, &["a.test"]);
        for end in 0..whole.len() {
            assert_eq!(holder(&whole[..end]), None, "{end}");
        }
        assert_eq!(holder(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
