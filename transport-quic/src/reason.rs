//! Why connections end: our close codes, and what the protocol library reports, in the port's words.
//!
//! Invariant: a certificate's refusal stays recognisable on both sides. Pure functions.

use quinn_proto::{ConnectionError, VarInt};
use shardstage::port::transport::PeerDown;

use crate::limits::MAX_REASON_BYTES;

/// Application close codes of this transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CloseCode {
    /// An orderly end.
    Stopped = 0,
    /// The greetings do not fit.
    Incompatible = 1,
    /// The peer's bytes make no sense.
    Violation = 2,
    /// A newer session between the same two shards took over.
    Replaced = 3,
    /// The certificate's time is over.
    CertificateExpired = 4,
    /// The greeting did not come in time.
    TooLate = 5,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code as u32)
    }
}

/// A reason cut to what fits into one datagram.
pub(crate) fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

/// TLS alerts that speak about a certificate, as QUIC error codes.
fn is_certificate_alert(code: u64) -> bool {
    const CRYPTO: u64 = 0x100;
    /// bad, unsupported, revoked, expired, unknown certificate; unknown authority; access denied; decrypt error; required.
    const ALERTS: [u64; 9] = [42, 43, 44, 45, 46, 48, 49, 51, 116];
    ALERTS.iter().any(|alert| code == CRYPTO | alert)
}

const NO_COMMON_PROTOCOL: u64 = 0x100 | 120;

/// What the end of a connection means for the engine.
pub(crate) fn down(error: &ConnectionError) -> PeerDown {
    match error {
        ConnectionError::TimedOut => PeerDown::TimedOut,
        ConnectionError::Reset => {
            PeerDown::Failed("the peer does not know the session: it was started anew".to_owned())
        }
        ConnectionError::ApplicationClosed(close) => closed(close.error_code, &String::from_utf8_lossy(&close.reason)),
        ConnectionError::ConnectionClosed(close) => {
            transport(u64::from(close.error_code), &printable(&close.to_string()), "the peer refused this node's")
        }
        ConnectionError::TransportError(error) => {
            transport(u64::from(error.code), &error.to_string(), "this node refused the peer's")
        }
        other => PeerDown::Failed(other.to_string()),
    }
}

/// Peers' words without control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What our verifier said, without the wrapping that the TLS library's error type puts around it.
fn own_words(reason: &str) -> &str {
    reason.split_once("OtherError(").map_or(reason, |(_, words)| words.trim_end_matches(')'))
}

fn transport(code: u64, reason: &str, who: &str) -> PeerDown {
    if is_certificate_alert(code) {
        return PeerDown::CertificateRefused(format!("{who}: {}", own_words(reason)));
    }
    if code == NO_COMMON_PROTOCOL {
        return PeerDown::Incompatible(format!("no common protocol: {reason}"));
    }
    PeerDown::Failed(reason.to_owned())
}

fn closed(code: VarInt, reason: &str) -> PeerDown {
    let reason = printable(reason);
    let code = code.into_inner();
    if code == CloseCode::Stopped as u64 {
        PeerDown::Closed
    } else if code == CloseCode::Incompatible as u64 {
        PeerDown::Incompatible(format!("said by the peer: {reason}"))
    } else if code == CloseCode::CertificateExpired as u64 {
        PeerDown::CertificateRefused(format!("the peer refused this node's: {reason}"))
    } else {
        PeerDown::Failed(format!("the peer ended the session: {reason}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]
mod tests {
    use super::*;

    #[test]
    fn a_verifiers_words_are_found_in_the_wrapping() {
        let wrapped =
            "the cryptographic handshake failed: error 46: invalid peer certificate: Other(OtherError(it is expired))";
        assert_eq!(
            transport(0x100 | 46, wrapped, "here"),
            PeerDown::CertificateRefused("here: it is expired".to_owned())
        );
        assert_eq!(transport(0x100 | 120, "x", "here"), PeerDown::Incompatible("no common protocol: x".to_owned()));
        assert_eq!(
            closed(VarInt::from_u32(2), "bad\u{1b}[0m"),
            PeerDown::Failed("the peer ended the session: bad?[0m".to_owned())
        );
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let reason = "ä".repeat(MAX_REASON_BYTES);
        assert!(cut(&reason).len() <= MAX_REASON_BYTES && cut("short") == "short");
    }
}
