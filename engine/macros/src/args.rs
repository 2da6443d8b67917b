//! What stands in the parentheses of `#[message(..)]` and `#[wire(..)]`.
//!
//! Invariant: whatever is wrong is reported at the token that is wrong.

use proc_macro2::TokenStream;
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Type, meta::ParseNestedMeta, parse::Parser};

/// Bytes of a wire name, at most; the codec's `NAME_BYTES_MAX`, which checks it again.
const NAME_BYTES_MAX: usize = 128;

/// The arguments, checked one by one and against each other.
#[derive(Default)]
pub(crate) struct Args {
    /// Name and version of what stands alone on the wire.
    pub(crate) name: Option<Name>,
    /// The reply's type, where it was said.
    pub(crate) reply: Option<Type>,
    /// How urgent it is, where that was said.
    pub(crate) priority: Option<Ident>,
    /// The function that says what it weighs, where that was said.
    pub(crate) weight: Option<Path>,
}

/// A wire name and its version.
pub(crate) struct Name {
    pub(crate) id: LitStr,
    pub(crate) version: u16,
}

impl Args {
    /// Reads the arguments of `#[message(..)]`.
    pub(crate) fn of_message(tokens: TokenStream) -> Result<Self> {
        Self::parse(tokens, true)
    }

    /// Reads the arguments of `#[wire(..)]`.
    pub(crate) fn of_wire(tokens: TokenStream) -> Result<Self> {
        Self::parse(tokens, false)
    }

    fn parse(tokens: TokenStream, is_message: bool) -> Result<Self> {
        let mut id: Option<LitStr> = None;
        let mut version: Option<(LitInt, u16)> = None;
        let mut reply: Option<Type> = None;
        let mut priority: Option<Ident> = None;
        let mut weight: Option<Path> = None;
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("id") {
                once(&id, &meta)?;
                id = Some(parse_id(&meta)?);
            } else if meta.path.is_ident("version") {
                once(&version, &meta)?;
                version = Some(parse_version(&meta)?);
            } else if meta.path.is_ident("reply") && is_message {
                once(&reply, &meta)?;
                reply = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("priority") && is_message {
                once(&priority, &meta)?;
                priority = Some(parse_priority(&meta)?);
            } else if meta.path.is_ident("weight") && is_message {
                once(&weight, &meta)?;
                weight = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("reply") {
                return Err(meta.error("only a message has a reply: use #[message(..)]"));
            } else if is_message {
                return Err(meta.error("unknown argument; known are id, version, reply, priority and weight"));
            } else {
                return Err(meta.error("unknown argument; known are id and version"));
            }
            Ok(())
        });
        parser.parse2(tokens)?;
        let name = match (id, version) {
            (Some(id), version) => Some(Name { id, version: version.map_or(1, |(_, number)| number) }),
            (None, Some((token, _))) => {
                return Err(Error::new(token.span(), "a version needs an id: `id = \"...\"`"));
            }
            (None, None) => None,
        };
        Ok(Self { name, reply, priority, weight })
    }
}

fn once<T>(slot: &Option<T>, meta: &ParseNestedMeta<'_>) -> Result<()> {
    match slot {
        None => Ok(()),
        Some(_) => Err(meta.error("this argument is given twice")),
    }
}

fn parse_priority(meta: &ParseNestedMeta<'_>) -> Result<Ident> {
    let priority: Ident = meta.value()?.parse()?;
    let known = ["Low", "Normal", "High", "Urgent"];
    if known.iter().all(|known| priority != known) {
        return Err(Error::new(priority.span(), "a priority is Low, Normal, High or Urgent"));
    }
    Ok(priority)
}

fn parse_id(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let id: LitStr = meta
        .value()
        .and_then(|value| value.parse())
        .map_err(|error| Error::new(error.span(), "an id is a name in quotes: `id = \"bank.deposit\"`"))?;
    let name = id.value();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(Error::new(id.span(), "an id is 1 to 128 of `a-z A-Z 0-9 . _ - /`"));
    }
    Ok(id)
}

fn parse_version(meta: &ParseNestedMeta<'_>) -> Result<(LitInt, u16)> {
    let token: LitInt = meta
        .value()
        .and_then(|value| value.parse())
        .map_err(|error| Error::new(error.span(), "a version is a number: `version = 2`"))?;
    match token.base10_parse::<u16>() {
        Ok(number) if number > 0 => Ok((token, number)),
        _ => Err(Error::new(token.span(), "a version is a number from 1 to 65535")),
    }
}
