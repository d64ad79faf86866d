//! The keys that a config may have, read off the types themselves: what serde asks for is what can be written.

use super::Config;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeSeed;
use serde::de::EnumAccess;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::VariantAccess;
use serde::de::Visitor;
use serde::de::value::Error;
use serde::de::value::StrDeserializer;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What may be written in one place of a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schema {
    /// A table with these keys.
    Table(BTreeMap<&'static str, Schema>),
    /// A list.
    List,
    /// A text: words, paths, one of several choices.
    Text,
    /// A number or a truth value.
    Scalar,
}

impl Schema {
    /// That of [`Config`].
    pub(super) fn of_config() -> &'static Self {
        static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
            let mut schema = Schema::Scalar;
            // A type that the probe cannot make up shows as missing keys, which a test looks for.
            let _ = Config::deserialize(Probe(&mut schema));
            schema
        });
        &SCHEMA
    }

    /// What stands under `name`, where this is a table that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Table(keys) => keys.get(name),
            _ => None,
        }
    }

    /// The dotted keys of everything that is no table.
    pub(super) fn leaves(&self) -> Vec<String> {
        match self {
            Self::Table(keys) => {
                let below = |(name, schema): (&&str, &Self)| -> Vec<String> {
                    let inner = schema.leaves();
                    if inner.is_empty() {
                        return vec![(*name).to_owned()];
                    }
                    inner.iter().map(|key| format!("{name}.{key}")).collect()
                };
                keys.iter().flat_map(below).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Gives a type whatever it asks for, and notes what that is.
struct Probe<'a>(&'a mut Schema);

impl Probe<'_> {
    fn note(self, schema: Schema) {
        *self.0 = schema;
    }
}

/// Methods that note `$schema` and hand over `$value`.
macro_rules! values {
    ($($method:ident: $schema:ident, $visit:ident($value:expr);)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.note(Schema::$schema);
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    values! {
        deserialize_bool: Scalar, visit_bool(false);
        deserialize_u8: Scalar, visit_u8(0);
        deserialize_u16: Scalar, visit_u16(0);
        deserialize_u32: Scalar, visit_u32(0);
        deserialize_u64: Scalar, visit_u64(0);
        deserialize_i8: Scalar, visit_i8(0);
        deserialize_i16: Scalar, visit_i16(0);
        deserialize_i32: Scalar, visit_i32(0);
        deserialize_i64: Scalar, visit_i64(0);
        deserialize_f32: Scalar, visit_f32(0.0);
        deserialize_f64: Scalar, visit_f64(0.0);
        deserialize_str: Text, visit_str("");
        deserialize_string: Text, visit_str("");
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Schema::List);
        visitor.visit_seq(Nothing)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Schema::Text);
        visitor.visit_enum(First(variants.first().copied().unwrap_or_default()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Self(schema) = self;
        *schema = Schema::Table(BTreeMap::new());
        let Schema::Table(found) = schema else {
            return visitor.visit_unit();
        };
        visitor.visit_map(Fields {
            names: fields.iter(),
            next: "",
            found,
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct map identifier ignored_any
    }
}

/// Every field of a struct in turn.
struct Fields<'a> {
    names: std::slice::Iter<'static, &'static str>,
    next: &'static str,
    found: &'a mut BTreeMap<&'static str, Schema>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.next = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let schema = self.found.entry(self.next).or_insert(Schema::Scalar);
        seed.deserialize(Probe(schema))
    }
}

/// A list without elements.
struct Nothing;

impl<'de> SeqAccess<'de> for Nothing {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        _: T,
    ) -> Result<Option<T::Value>, Error> {
        Ok(None)
    }
}

/// An enum's first choice, which has no content.
struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant = seed.deserialize(StrDeserializer::new(self.0))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for First {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(serde::de::Error::custom("a choice with content"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("a choice with content"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("a choice with content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_config_is_understood() {
        let mut schema = Schema::Scalar;
        Config::deserialize(Probe(&mut schema)).unwrap();
        assert_eq!(&schema, Schema::of_config());
        let kind = |key: &str| key.split('.').try_fold(&schema, Schema::get);
        // Absent by default, and not written when absent.
        assert_eq!(kind("data.manifest"), Some(&Schema::Text));
        assert_eq!(kind("data.assume_kind"), Some(&Schema::Text));
        assert_eq!(kind("train.stop_after"), Some(&Schema::Scalar));
        assert_eq!(kind("data.kinds"), Some(&Schema::List));
        assert!(matches!(kind("eval"), Some(Schema::Table(_))));
        assert_eq!(kind("eval.nothing"), None);
        assert_eq!(kind("seed.nothing"), None);
    }
}
