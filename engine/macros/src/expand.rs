//! What the two macros write: the item as it was, and the impls beside it.
//!
//! Invariant: every path begins at `::shardstage`, and code about a field carries the field's span, so that
//! a type that cannot cross the wire is underlined where it stands.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Error, Fields, Result, Type, ext::IdentExt, parse_quote, spanned::Spanned};

use crate::args::{Args, Name};

/// `#[message(..)]`.
pub(crate) fn message(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args = Args::of_message(args)?;
    let item: DeriveInput = syn::parse2(item)?;
    check_item(&item)?;
    let reply = args.reply.unwrap_or_else(|| parse_quote! { () });
    let ident = &item.ident;
    let priority = args.priority.map(|level| {
        quote! { const PRIORITY: ::shardstage::Priority = ::shardstage::Priority::#level; }
    });
    let weight = args.weight.map(|weight| {
        quote! { fn weight_bytes(&self) -> usize { #weight(self) } }
    });
    let Some(name) = &args.name else {
        return Ok(quote! {
            #item

            #[automatically_derived]
            impl ::shardstage::Message for #ident {
                type Reply = #reply;
                #priority
                #weight
            }
        });
    };
    let value = wire_value(&item)?;
    let wire = wire_name(&item, name, Some(&reply));
    Ok(quote! {
        #value
        #wire

        #[automatically_derived]
        impl ::shardstage::Message for #ident {
            type Reply = #reply;
            #priority
            const WIRE: ::core::option::Option<::shardstage::WireOps<Self>> =
                ::core::option::Option::Some(::shardstage::WireOps::new());
            #weight
        }

        #[automatically_derived]
        impl ::shardstage::WireMessage for #ident {}
    })
}

/// `#[wire(..)]`.
pub(crate) fn wire(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let args = Args::of_wire(args)?;
    let item: DeriveInput = syn::parse2(item)?;
    check_item(&item)?;
    let value = wire_value(&item)?;
    let wire = args.name.map(|name| wire_name(&item, &name, None));
    Ok(quote! { #value #wire })
}

/// The item with rkyv's derives, and its `WireValue`.
fn wire_value(item: &DeriveInput) -> Result<TokenStream> {
    check_attributes(item)?;
    let mut depths = Vec::new();
    let shape = match &item.data {
        Data::Struct(data) => {
            let fields = fields(&data.fields, &mut depths);
            quote! { ::structure() #fields }
        }
        Data::Enum(data) => {
            let variants = data.variants.iter().map(|variant| {
                let name = variant.ident.unraw().to_string();
                let fields = fields(&variant.fields, &mut depths);
                quote! { .variant(#name) #fields }
            });
            quote! { ::enumeration() #(#variants)* }
        }
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span(), "a union cannot cross the wire"));
        }
    };
    let ident = &item.ident;
    let codec = quote! { ::shardstage::__private::codec };
    Ok(quote! {
        #[derive(
            ::shardstage::__private::rkyv::Archive,
            ::shardstage::__private::rkyv::Serialize,
            ::shardstage::__private::rkyv::Deserialize,
        )]
        #[rkyv(crate = ::shardstage::__private::rkyv, attr(allow(missing_docs)))]
        #item

        #[automatically_derived]
        impl #codec::WireValue for #ident {
            const DEPTH: u32 = #codec::wire::depth_over(&[#(#depths),*]);
            const SHAPE: u64 = #codec::Shape #shape .finish();
        }
        const _: () = #codec::assert_wire::<#ident>();
    })
}

/// `.field(..)` for each field; its depth goes to `depths`.
fn fields(fields: &Fields, depths: &mut Vec<TokenStream>) -> TokenStream {
    let mut shape = TokenStream::new();
    for (index, field) in fields.iter().enumerate() {
        let name = field.ident.as_ref().map_or_else(|| index.to_string(), |ident| ident.unraw().to_string());
        let ty = &field.ty;
        let value = quote_spanned! { ty.span()=> <#ty as ::shardstage::__private::codec::WireValue> };
        quote! { .field(#name, #value::SHAPE) }.to_tokens(&mut shape);
        depths.push(quote! { #value::DEPTH });
    }
    shape
}

/// The type's `Wire`: its name, version and fingerprint.
fn wire_name(item: &DeriveInput, name: &Name, reply: Option<&Type>) -> TokenStream {
    let ident = &item.ident;
    let Name { id, version } = name;
    let codec = quote! { ::shardstage::__private::codec };
    let fingerprint = reply.map(|reply| {
        quote_spanned! { reply.span()=>
            const FINGERPRINT: u64 = ::shardstage::__private::codec::fingerprint_with_reply::<Self, #reply>();
        }
    });
    quote! {
        #[automatically_derived]
        impl #codec::Wire for #ident {
            const NAME: &'static str = #id;
            const VERSION: u16 = #version;
            #fingerprint
        }
    }
}

fn check_item(item: &DeriveInput) -> Result<()> {
    if !item.generics.params.is_empty() {
        return Err(Error::new(
            item.generics.span(),
            "a message or wire type cannot be generic: one name stands for one layout; write the impls by hand for a \
             generic message that stays inside the process",
        ));
    }
    match &item.data {
        Data::Enum(data) if data.variants.is_empty() => {
            Err(Error::new(item.ident.span(), "an enum without variants has no values to send"))
        }
        _ => Ok(()),
    }
}

/// Refuses attributes that would change the archive behind the shape's back.
fn check_attributes(item: &DeriveInput) -> Result<()> {
    refuse(&item.attrs, &["rkyv"])?;
    let inside: &mut dyn Iterator<Item = &Fields> = match &item.data {
        Data::Struct(data) => &mut core::iter::once(&data.fields),
        Data::Enum(data) => &mut data.variants.iter().map(|variant| &variant.fields),
        Data::Union(_) => return Ok(()),
    };
    for field in inside.flat_map(Fields::iter) {
        refuse(&field.attrs, &["rkyv", "cfg", "cfg_attr"])?;
    }
    if let Data::Enum(data) = &item.data {
        for variant in &data.variants {
            refuse(&variant.attrs, &["rkyv", "cfg", "cfg_attr"])?;
        }
    }
    Ok(())
}

fn refuse(attributes: &[Attribute], names: &[&str]) -> Result<()> {
    for attribute in attributes {
        if let Some(name) = names.iter().find(|name| attribute.path().is_ident(name)) {
            let text = format!("`#[{name}(..)]` cannot stand in a wire type: its layout must be the same everywhere");
            return Err(Error::new(attribute.span(), text));
        }
    }
    Ok(())
}
