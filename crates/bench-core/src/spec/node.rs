//! A YAML tree that knows where everything stands, and a deserialiser over it that notes every
//! unknown key and goes on, where serde alone would stop at the first.

use std::cell::RefCell;
use std::fmt;

use miette::SourceSpan;
use serde::de::value::StringDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde_saphyr::{Location, Spanned};

use super::problem::Problem;

/// A value and its place in the text.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) span: SourceSpan,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, SourceSpan, Node)>),
}

impl Node {
    /// Follows keys and list positions as far as they exist.
    pub(super) fn at(&self, path: &[&str]) -> &Node {
        let Some((first, rest)) = path.split_first() else { return self };
        let next = match &self.kind {
            Kind::Map(entries) => {
                entries.iter().find(|(key, ..)| key == first).map(|(.., node)| node)
            }
            Kind::List(items) => first.parse::<usize>().ok().and_then(|index| items.get(index)),
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Text(_) => None,
        };
        next.map_or(self, |node| node.at(rest))
    }

    /// Whether it is a map with the key.
    pub(super) fn has(&self, wanted: &str) -> bool {
        match &self.kind {
            Kind::Map(entries) => entries.iter().any(|(key, ..)| key == wanted),
            Kind::List(_)
            | Kind::Null
            | Kind::Bool(_)
            | Kind::Integer(_)
            | Kind::Float(_)
            | Kind::Text(_) => false,
        }
    }

    /// Calls `change` on every text value.
    pub(super) fn for_each_text(&mut self, change: &mut dyn FnMut(&mut String, SourceSpan)) {
        match &mut self.kind {
            Kind::Text(text) => change(text, self.span),
            Kind::List(items) => {
                for item in items {
                    item.for_each_text(change);
                }
            }
            Kind::Map(entries) => {
                for (.., node) in entries {
                    node.for_each_text(change);
                }
            }
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => {}
        }
    }
}

pub(super) fn span(location: Location) -> SourceSpan {
    let span = location.span();
    let offset = span.byte_offset().unwrap_or(span.offset());
    let len = span.byte_len().unwrap_or(span.len());
    (usize::try_from(offset).unwrap_or(0), usize::try_from(len).unwrap_or(0)).into()
}

/// Reads a [`Node`] from any YAML.
pub(super) struct Tree(pub(super) Node);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Raw>::deserialize(deserializer)?;
        Ok(Self(Node { span: span(spanned.referenced), kind: spanned.value.0 }))
    }
}

struct Raw(Kind);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor).map(Raw)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(i64::try_from(value).map_or(Kind::Float(value as f64), Kind::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(node)) = list.next_element()? {
            items.push(node);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Tree(node) = map.next_value()?;
            entries.push((key.value, span(key.referenced), node));
        }
        Ok(Kind::Map(entries))
    }
}

/// A serde error that knows its place. An inner place is kept when outer layers add nothing.
#[derive(Debug)]
pub(super) struct Misfit {
    message: String,
    span: Option<SourceSpan>,
    help: Option<String>,
}

impl Misfit {
    fn at(mut self, span: SourceSpan) -> Self {
        self.span.get_or_insert(span);
        self
    }

    pub(super) fn into_problem(self) -> Problem {
        Problem {
            message: self.message,
            label: "here".into(),
            help: self.help,
            span: self.span.unwrap_or((0, 0).into()),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

impl serde::de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), span: None, help: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let (what, help) = wanted(&expected);
        Self {
            message: format!("expected {what}, found {}", shown(&found)),
            span: None,
            help: help.map(str::to_owned),
        }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self {
            message: format!("`{variant}` is not known here"),
            span: None,
            help: Some(did_you_mean(variant, expected)),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            message: format!("`{field}` is missing"),
            span: None,
            help: Some(format!("add `{field}: …` here")),
        }
    }
}

/// What serde's name of a type asks for, and how to write it.
fn wanted(expected: &str) -> (&str, Option<&'static str>) {
    let whole = Some("give a whole number, for example 3");
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => ("a whole number, 0 or more", whole),
        "a nonzero u32" | "a nonzero u64" => ("a whole number above 0", whole),
        "i8" | "i16" | "i32" | "i64" => ("a whole number", whole),
        "f32" | "f64" => ("a number", Some("give a number, for example 0.5")),
        "a boolean" => ("`true` or `false`", Some("write `true` or `false`, without quotes")),
        "a string" => {
            ("a text", Some("write a text, in quotes where YAML would read another thing"))
        }
        "a sequence" => ("a list", Some("write a list: `[first, second]`")),
        "a map" => ("a map", Some("write a map: `{ key: value }`")),
        other if other.starts_with("struct ") => {
            ("a map of settings", Some("write a map: `{ key: value }`"))
        }
        other => (other, None),
    }
}

/// A value as a message shows it.
fn shown(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        Unexpected::Float(value) => format!("`{value}`"),
        Unexpected::Str(text) => match text.char_indices().nth(LONGEST_TEXT) {
            Some((end, _)) => format!("the text `{}…`", &text[..end]),
            None => format!("the text `{text}`"),
        },
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a map".into(),
        other => other.to_string(),
    }
}

/// Characters of a text that a message shows.
const LONGEST_TEXT: usize = 60;

/// The keys that a map must have, by the name of its type: serde would name the first that is
/// missing and stop.
pub(super) const REQUIRED: &[(&str, &[&str])] = &[
    ("Experiment", &["version", "models", "eval_sets", "arms"]),
    ("Endpoint", &["base_url", "model"]),
    ("EvalSet", &["name", "path", "scorers"]),
    ("Arm", &["name", "strategy"]),
    ("Gate", &["arm", "metric"]),
];

/// "did you mean" for the closest word, and all words when none is close.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let closest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3));
    match closest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => "there is none to choose from".into(),
        None => format!("one of: {}", known.join(", ")),
    }
}

/// Deserialises from a node, noting unknown keys in `problems`.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) node: &'a Node,
    pub(super) problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    fn of(self, node: &'a Node) -> Self {
        Self { node, problems: self.problems }
    }

    /// Notes every required key that a map lacks.
    fn note_missing(self, name: &str) {
        let Kind::Map(entries) = &self.node.kind else { return };
        let required = REQUIRED.iter().find(|(known, _)| *known == name);
        for key in required.into_iter().flat_map(|(_, keys)| keys.iter().copied()) {
            if !entries.iter().any(|(known, ..)| known == key) {
                let misfit = Misfit::missing_field(key).at(self.node.span);
                self.problems.borrow_mut().push(misfit.into_problem());
            }
        }
    }

    fn place<T>(self, result: Result<T, Misfit>) -> Result<T, Misfit> {
        result.map_err(|misfit| misfit.at(self.node.span))
    }

    /// Reads a value; a misfit becomes a problem, so that the caller can go on with the others.
    pub(super) fn read<T: Deserialize<'a>>(self) -> Option<T> {
        match T::deserialize(self) {
            Ok(value) => Some(value),
            Err(misfit) => {
                self.problems.borrow_mut().push(misfit.at(self.node.span).into_problem());
                None
            }
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.place(match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Integer(value) => visitor.visit_i64(*value),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Text(value) => visitor.visit_borrowed_str(value),
            Kind::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter() }),
            Kind::Map(entries) => visitor.visit_map(Entries {
                reader: self,
                known: None,
                left: entries.iter(),
                value: None,
            }),
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// A number where text belongs is text: `name: 7`.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.node.kind {
            Kind::Integer(value) => self.place(visitor.visit_string(value.to_string())),
            Kind::Null
            | Kind::Bool(_)
            | Kind::Float(_)
            | Kind::Text(_)
            | Kind::List(_)
            | Kind::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.node.kind {
            // YAML 1.2 wants a dot or a sign in `2e-4`; people do not.
            Kind::Text(text) if text.parse::<f64>().is_ok() => {
                self.place(visitor.visit_f64(text.parse().unwrap_or_default()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// One item where a list belongs is a list of one: `target_modules: all-linear`.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.node.kind {
            Kind::Text(_) | Kind::Integer(_) => {
                let items = std::slice::from_ref(self.node).iter();
                self.place(visitor.visit_seq(Items { reader: self, items }))
            }
            Kind::Null | Kind::Bool(_) | Kind::Float(_) | Kind::List(_) | Kind::Map(_) => {
                self.deserialize_any(visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.note_missing(name);
        match &self.node.kind {
            Kind::Map(entries) => self.place(visitor.visit_map(Entries {
                reader: self,
                known: Some(fields),
                left: entries.iter(),
                value: None,
            })),
            Kind::Null => self.place(visitor.visit_map(Entries {
                reader: self,
                known: Some(fields),
                left: [].iter(),
                value: None,
            })),
            _ => {
                let keys = fields.join(", ");
                self.place(Err(Misfit::custom(format!("expected a map with the keys {keys}"))))
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.place(visitor.visit_newtype_struct(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.place(match &self.node.kind {
            Kind::Text(name) => visitor.visit_enum(Variant { reader: self, name, content: None }),
            Kind::Map(entries) if entries.len() == 1 => {
                let (name, span, content) = &entries[0];
                visitor
                    .visit_enum(Variant { reader: self, name, content: Some(content) })
                    .map_err(|misfit| misfit.at(*span))
            }
            _ => Err(Misfit::custom(format!("expected one of: {}", variants.join(", ")))),
        })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char str bytes byte_buf unit unit_struct
        tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    reader: Reader<'de>,
    items: std::slice::Iter<'de, Node>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Misfit> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(self.reader.of(node)).map(Some).map_err(|misfit| misfit.at(node.span))
    }
}

struct Entries<'de> {
    reader: Reader<'de>,
    /// The fields of a struct; `None` for a free map.
    known: Option<&'static [&'static str]>,
    left: std::slice::Iter<'de, (String, SourceSpan, Node)>,
    value: Option<&'de Node>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Misfit> {
        for (key, span, node) in self.left.by_ref() {
            if let Some(known) = self.known
                && !known.contains(&key.as_str())
            {
                self.reader.problems.borrow_mut().push(Problem {
                    message: format!("unknown key `{key}`"),
                    label: "not a key of this map".into(),
                    help: Some(did_you_mean(key, known)),
                    span: *span,
                });
                continue;
            }
            self.value = Some(node);
            let key = StringDeserializer::<Misfit>::new(key.clone());
            return seed.deserialize(key).map(Some).map_err(|misfit| misfit.at(*span));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let node = self.value.take().ok_or_else(|| Misfit::custom("a value without a key"))?;
        seed.deserialize(self.reader.of(node)).map_err(|misfit| misfit.at(node.span))
    }
}

struct Variant<'de> {
    reader: Reader<'de>,
    name: &'de str,
    content: Option<&'de Node>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let name = StringDeserializer::<Misfit>::new(self.name.to_owned());
        Ok((seed.deserialize(name)?, self))
    }
}

/// What a variant named without settings holds.
fn nothing<'a>() -> &'a Node {
    static NOTHING: std::sync::LazyLock<Node> =
        std::sync::LazyLock::new(|| Node { kind: Kind::Null, span: (0, 0).into() });
    &NOTHING
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.content {
            None | Some(Node { kind: Kind::Null, .. }) => Ok(()),
            Some(_) => Err(Misfit::custom(format!("`{}` takes no settings", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        seed.deserialize(self.reader.of(self.content.unwrap_or_else(nothing)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.reader.of(self.content.unwrap_or_else(nothing)).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.reader.of(self.content.unwrap_or_else(nothing)).deserialize_struct("", fields, visitor)
    }
}
