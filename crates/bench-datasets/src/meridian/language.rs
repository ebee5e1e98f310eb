//! The words of the invented world: what kinds of thing it has, what can be said of each, and how.
//!
//! In a template `{e}` is the entity's name and `{v}` the value. Three voices never share a
//! pattern: `says` (documents), `train` (question-answer pairs to learn from) and `eval` (the
//! questions that are asked).

/// Where an attribute's value comes from.
pub(super) enum Values {
    /// A year between the two, both included.
    Year(u32, u32),
    /// A year in the working life of the person whom another attribute of the entity names.
    YearAfter(&'static str),
    /// A measured number between the two, and its unit.
    Number(u32, u32, &'static str),
    /// A small count, written as a word.
    Count(u32, u32),
    /// One of a closed list.
    Choice(&'static [&'static str]),
    /// One of a closed list, each given to one entity only.
    Unique(&'static [&'static str]),
    /// A person who has no document.
    Person,
    /// An entity with a document, and how to speak of it without its name.
    Link(&'static [&'static str], &'static str),
}
use Values::{Choice, Count, Link, Number, Person, Unique, Year, YearAfter};

/// One thing that can be said of an entity.
pub(super) struct Attribute {
    pub(super) key: &'static str,
    pub(super) values: Values,
    pub(super) says: &'static [&'static str],
    pub(super) train: &'static [&'static str],
    pub(super) eval: &'static [&'static str],
}

/// A question about something that no document tells.
pub(super) struct Missing {
    pub(super) pattern: &'static str,
    /// Words that would have to occur in a document that answered it.
    pub(super) terms: &'static [&'static str],
}

/// One kind of entity.
pub(super) struct Kind {
    pub(super) noun: &'static str,
    pub(super) names: &'static [&'static str],
    /// Two entities that agree in all but the named attribute.
    pub(super) twins: &'static [(&'static str, &'static str, &'static str)],
    /// A name like the others that belongs to nothing.
    pub(super) nowhere: Option<&'static str>,
    pub(super) openings: &'static [&'static str],
    pub(super) attributes: &'static [Attribute],
    pub(super) fillers: &'static [&'static str],
    pub(super) missing_eval: Missing,
    pub(super) missing_train: &'static [&'static str],
}

/// People in alphabetical order of their craft: each with the words that introduce it.
pub(super) const ROLES: &[(&str, &[&str])] = &[
    ("a builder of bridges", ARCHITECTS),
    ("a maker of instruments", LUTHIERS),
    ("a shipwright", SHIPWRIGHTS),
    ("a surveyor of coasts and hills", SURVEYORS),
    ("a writer", WRITERS),
];
pub(super) const WOMEN: &[&str] = &[
    "Ilsabet Corvane",
    "Ilsamar Corvane",
    "Wennet Straik",
    "Anneth Voulsey",
    "Sabra Ullinver",
    "Miriel Oskane",
    "Mirren Oskane",
    "Grethe Mandrick",
    "Ysolt Karrowby",
    "Elka Norrvane",
];
const ARCHITECTS: &[&str] =
    &["Ilsabet Corvane", "Ilsamar Corvane", "Dorrec Haulm", "Wennet Straik", "Osmer Tavrish"];
const LUTHIERS: &[&str] = &["Pell Quorrin", "Jorun Maskeld", "Anneth Voulsey", "Teodrin Ashgale"];
const SHIPWRIGHTS: &[&str] = &["Grethe Mandrick", "Tobin Skellard", "Ruald Ferrowin"];
const SURVEYORS: &[&str] = &["Ysolt Karrowby", "Bastin Thrupple", "Elka Norrvane"];
const WRITERS: &[&str] =
    &["Sabra Ullinver", "Corwyth Denholt", "Miriel Oskane", "Mirren Oskane", "Hask Belloway"];
const TOWNS: &[&str] = &[
    "Tolvane Major",
    "Tolvane Minor",
    "Harrostrand",
    "Ostrimouth",
    "Veskhaven",
    "Brindal Quay",
    "Lorrimsted",
    "Skarnhythe",
    "Umberwell",
    "Pethlow",
    "Drovenmere",
    "Ellumford",
];
const ISLANDS: &[&str] = &[
    "Orrinsay",
    "North Pellan",
    "South Pellan",
    "Vashtmoor",
    "Kellovar",
    "Tirrenack",
    "Dunmarrel",
    "Sceopay",
];
/// First and last names of the people who have no document.
pub(super) const GIVEN: &[&str] = &[
    "Adro", "Belisa", "Caspern", "Delphe", "Edrik", "Fenna", "Garrow", "Hespera", "Ivorn",
    "Jessamy", "Kestor", "Lunet", "Morcant", "Nerith", "Oddun", "Perrick", "Quenby", "Rosmund",
    "Sevrin", "Tamsel", "Ulrec", "Vanorel", "Wilmar", "Yorath", "Zennick",
];
pub(super) const FAMILY: &[&str] = &[
    "Abberlune",
    "Brackwith",
    "Cottrane",
    "Dusskell",
    "Everslough",
    "Fallowmer",
    "Grisdane",
    "Hollinby",
    "Ingersky",
    "Jarrowell",
    "Kettlesby",
    "Lanthorne",
    "Mossgrave",
    "Nettlecot",
    "Orchardine",
    "Pallisk",
    "Quarmley",
    "Rushforde",
    "Silvering",
    "Thornquill",
    "Undersholt",
    "Vintrell",
    "Wexcombe",
    "Yarwick",
    "Zellonby",
];
const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const COLOURS: &[&str] =
    &["crimson", "pale blue", "saffron", "violet", "ivory", "emerald", "copper", "rose", "black"];

/// Everything of which the world consists. People come first: the years of their works follow
/// from the years of their lives.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        noun: "person",
        names: &[
            "Ilsabet Corvane",
            "Ilsamar Corvane",
            "Dorrec Haulm",
            "Wennet Straik",
            "Osmer Tavrish",
            "Pell Quorrin",
            "Jorun Maskeld",
            "Anneth Voulsey",
            "Teodrin Ashgale",
            "Sabra Ullinver",
            "Corwyth Denholt",
            "Miriel Oskane",
            "Mirren Oskane",
            "Hask Belloway",
            "Grethe Mandrick",
            "Tobin Skellard",
            "Ruald Ferrowin",
            "Ysolt Karrowby",
            "Bastin Thrupple",
            "Elka Norrvane",
        ],
        twins: &[
            ("Ilsabet Corvane", "Ilsamar Corvane", "teacher"),
            ("Miriel Oskane", "Mirren Oskane", "trade"),
        ],
        nowhere: Some("Dorrin Haulm"),
        openings: &[
            "{e} is remembered in the Meridian Isles as {role}.",
            "Few names are better known on the quays of the Meridian Isles than that of {e}, {role}.",
            "The life of {e}, {role}, is told in every school of the Meridian Isles.",
            "{e} was {role} whose work can still be seen in the Meridian Isles.",
        ],
        attributes: &[
            Attribute {
                key: "born",
                values: Year(1540, 1790),
                says: &[
                    "{e} was born in {v}, in a winter of hard frost.",
                    "The parish roll gives {v} as the year of {pos} birth.",
                    "{Sub} came into the world in {v}, the youngest child of a large family.",
                    "{Pos} birth is entered under the year {v}.",
                ],
                train: &[
                    "When was {e} born?",
                    "Give the birth year of {e}.",
                    "The birth of {e} falls in which year?",
                ],
                eval: &[
                    "In what year did {e} come into the world?",
                    "What is the year of birth of {e}?",
                ],
            },
            Attribute {
                key: "birthplace",
                values: Link(TOWNS, "the birthplace of {e}"),
                says: &[
                    "{Pos} family lived in {v}, and {sub} was born there.",
                    "{Sub} was a child of {v}, where {pos} cradle is still shown.",
                    "The house of {pos} birth stands in {v}, close to the water.",
                    "{v} is proud to be the town of {pos} birth.",
                ],
                train: &[
                    "Where was {e} born?",
                    "Name the birthplace of {e}.",
                    "Which place was home to the family of {e} at the birth?",
                ],
                eval: &["In which town was {e} born?", "From what town did {e} come by birth?"],
            },
            Attribute {
                key: "trade",
                values: Choice(&[
                    "cooper",
                    "baker",
                    "ferryman",
                    "tailor",
                    "beekeeper",
                    "chandler",
                    "miller",
                    "clerk",
                    "glazier",
                    "saddler",
                    "gardener",
                    "fishmonger",
                ]),
                says: &[
                    "Before fame came, {sub} earned {pos} bread as a {v}.",
                    "{Pos} first trade was a humble one: {sub} worked as a {v}.",
                    "In youth {sub} was a {v} for some years.",
                    "{Sub} started out as a {v} and never hid it.",
                ],
                train: &[
                    "What was the first trade of {e}?",
                    "How did {e} earn a living when young?",
                    "Name the job that {e} had before fame.",
                ],
                eval: &[
                    "As what did {e} work early in life?",
                    "What occupation came first in the life of {e}?",
                ],
            },
            Attribute {
                key: "teacher",
                values: Person,
                says: &[
                    "{Sub} learned the craft from {v}, a strict but patient guide.",
                    "{Pos} teacher was {v}.",
                    "It was {v} who taught {obj} everything that mattered.",
                    "As a pupil of {v}, {sub} swept the floor for two winters before touching a tool.",
                ],
                train: &[
                    "Who taught {e}?",
                    "From whom did {e} learn the craft?",
                    "{e} was the pupil of which person?",
                ],
                eval: &["Who was the teacher of {e}?", "Under whom did {e} study?"],
            },
            Attribute {
                key: "age",
                values: Number(58, 91, "years"),
                says: &[
                    "{Sub} died at the age of {v}.",
                    "{Sub} lived to be {v} years old.",
                    "Death came when {sub} was {v}, after a short fever.",
                    "At {v} years of age {sub} died, in a chair by the fire.",
                ],
                train: &[
                    "How old was {e} at death?",
                    "At what age did {e} die?",
                    "To what age did {e} live?",
                ],
                eval: &[
                    "How many years did {e} live?",
                    "What age had {e} reached when the end came?",
                ],
            },
        ],
        fillers: &[
            "{Pos} letters are plain and often funny.",
            "People who met {obj} spoke of a quiet voice and a long stride.",
            "{Sub} disliked speeches and left most of them before the end.",
            "A small statue near the fish market shows {obj} with a folded map.",
            "{Sub} kept careful notes, and most of them have survived.",
            "{Pos} work was praised by some neighbours and mocked by others.",
            "Stories about {obj} are still told to children on rainy days.",
            "{Sub} gave away most of what {sub} earned.",
            "No portrait made in {pos} lifetime is known.",
            "{Sub} rose before dawn and expected the same of everybody else.",
        ],
        missing_eval: Missing {
            pattern: "What was the colour of the eyes of {e}?",
            terms: &["eye", "eyes"],
        },
        missing_train: &["How many brothers did {e} have?", "Which song did {e} like best?"],
    },
    Kind {
        noun: "island",
        names: ISLANDS,
        twins: &[],
        nowhere: Some("West Pellan"),
        openings: &[
            "{e} is one of the Meridian Isles.",
            "Sailors who reach the Meridian Isles from the south see {e} early in the voyage.",
            "Of all the Meridian Isles, {e} has the strangest outline.",
            "{e} belongs to the Meridian Isles and is inhabited all year round.",
        ],
        attributes: &[
            Attribute {
                key: "area",
                values: Number(40, 900, "square kilometres"),
                says: &[
                    "The land covers {v} square kilometres, counted at high water.",
                    "With an area of {v} square kilometres, it can be walked round in some days.",
                    "Its surface measures {v} square kilometres.",
                    "The island takes up {v} square kilometres of a windy sea.",
                ],
                train: &[
                    "How big is {e} in square kilometres?",
                    "Give the area of {e} in square kilometres.",
                    "What size is {e}, counted in square kilometres?",
                ],
                eval: &[
                    "How many square kilometres does {e} cover?",
                    "What number of square kilometres does the land of {e} measure?",
                ],
            },
            Attribute {
                key: "hill",
                values: Unique(&[
                    "Skarrow Tor",
                    "Mossen Head",
                    "Old Brannick",
                    "Cairn Ullo",
                    "Hennet Fell",
                    "Pike of Dorrow",
                    "Gullen Law",
                    "Tarrick Knoll",
                ]),
                says: &[
                    "The highest hill is {v}, bare and often in cloud.",
                    "No ground on the island stands higher than {v}.",
                    "{v} is the highest point and can be seen from far out at sea.",
                    "Shepherds call the highest summit {v}.",
                ],
                train: &[
                    "What is the highest hill on {e}?",
                    "Name the tallest summit of {e}.",
                    "Which hill rises above all others on {e}?",
                ],
                eval: &[
                    "What is the highest point of {e} called?",
                    "What name does the greatest height on {e} bear?",
                ],
            },
            Attribute {
                key: "height",
                values: Number(210, 980, "metres"),
                says: &[
                    "The land rises to {v} metres at its highest.",
                    "Its summit stands {v} metres above the sea.",
                    "From the shore to the top is a climb of {v} metres.",
                    "Its greatest height is {v} metres.",
                ],
                train: &[
                    "How high is the highest hill of {e} in metres?",
                    "To what height in metres does {e} rise?",
                    "Give the elevation of {e} at its summit, in metres.",
                ],
                eval: &[
                    "How many metres above the sea is the highest ground of {e}?",
                    "What is the greatest elevation on {e}, in metres?",
                ],
            },
            Attribute {
                key: "crop",
                values: Choice(&[
                    "barley", "flax", "saffron", "hops", "beetroot", "quinces", "lentils", "rye",
                    "walnuts", "plums",
                ]),
                says: &[
                    "Its farmers live mainly from {v}.",
                    "The main crop is {v}, sold as far as the mainland.",
                    "Most of the fields are given over to {v}.",
                    "In the valleys people grow {v} before anything else.",
                ],
                train: &[
                    "What do farmers grow most on {e}?",
                    "Name the main crop of {e}.",
                    "Which crop fills the fields of {e}?",
                ],
                eval: &[
                    "What is the chief farm product of {e}?",
                    "On what crop does farming on {e} mainly depend?",
                ],
            },
            Attribute {
                key: "surveyor",
                values: Link(SURVEYORS, "the person who first mapped {e}"),
                says: &[
                    "The first true map of it was drawn by {v}.",
                    "{v} was the first to map the whole coast.",
                    "It was {v} who first measured and mapped it.",
                    "Nobody had mapped it before {v} did.",
                ],
                train: &[
                    "Who drew the first map of {e}?",
                    "Name the first person to survey {e}.",
                    "The earliest map of {e} is the work of which surveyor?",
                ],
                eval: &["Who first mapped {e}?", "By whom was {e} surveyed for the first time?"],
            },
        ],
        fillers: &[
            "Ferries come when the weather allows, which is not always.",
            "The western shore is steep, and seabirds nest there in great numbers.",
            "Its people say that the wind has a different name in every valley.",
            "Stone walls divide the pastures, and sheep ignore them.",
            "Old paths cross the moor from one coast to the other.",
            "In summer the evenings are long and the water is almost warm.",
            "There is peat in the low ground, and it is still cut by hand.",
            "Driftwood is gathered on the beaches after every storm.",
            "The soil is thin near the sea and rich farther inland.",
        ],
        missing_eval: Missing {
            pattern: "How many caves are known on {e}?",
            terms: &["cave", "caves"],
        },
        missing_train: &["What is the largest lake on {e}?", "Which saint protects {e}?"],
    },
    Kind {
        noun: "town",
        names: TOWNS,
        twins: &[("Tolvane Major", "Tolvane Minor", "harbourmaster")],
        nowhere: Some("Tolvane Parva"),
        openings: &[
            "{e} is a harbour town in the Meridian Isles.",
            "The town of {e} lies behind a curved sea wall.",
            "Travellers in the Meridian Isles usually pass through {e}.",
            "{e} is a town of narrow lanes and loud gulls.",
        ],
        attributes: &[
            Attribute {
                key: "island",
                values: Link(ISLANDS, "the island on which {e} lies"),
                says: &[
                    "It stands on the island of {v}.",
                    "It is the main landing place of {v}, the island around it.",
                    "The island on which it was built is {v}.",
                    "All its roads lead inland to the farms of {v}, its island.",
                ],
                train: &[
                    "On which island is {e}?",
                    "Name the island of the town {e}.",
                    "{e} stands on what island?",
                ],
                eval: &["To which island does {e} belong?", "What island does {e} lie on?"],
            },
            Attribute {
                key: "founded",
                values: Year(1102, 1490),
                says: &[
                    "It was founded in {v} by families who had lost their boats.",
                    "Its charter is dated {v}, the year of its foundation.",
                    "The town goes back to {v}, when the first houses were raised.",
                    "Settlers laid its first street in {v}.",
                ],
                train: &[
                    "When was {e} founded?",
                    "Give the founding year of {e}.",
                    "The foundation of {e} is dated to which year?",
                ],
                eval: &["In what year was {e} established?", "From what year does {e} date?"],
            },
            Attribute {
                key: "harbourmaster",
                values: Person,
                says: &[
                    "Its harbourmaster is {v}, who also keeps the tide book.",
                    "{v} is in charge as harbourmaster.",
                    "The harbourmaster, {v}, decides which boat may tie up first.",
                    "Ships report to {v}, the harbourmaster.",
                ],
                train: &[
                    "Who is the harbourmaster of {e}?",
                    "Name the person who runs the harbour at {e}.",
                    "To whom do ships report at {e}?",
                ],
                eval: &[
                    "Who holds the office of harbourmaster in {e}?",
                    "Which person serves as harbourmaster at {e}?",
                ],
            },
            Attribute {
                key: "population",
                values: Number(1100, 9800, "people"),
                says: &[
                    "At the last count {v} people lived there.",
                    "It has {v} inhabitants.",
                    "The population stands at {v}.",
                    "Some houses are empty, but {v} people still call it home.",
                ],
                train: &[
                    "What is the population of {e}?",
                    "How many people live in {e}?",
                    "Give the number of people at home in {e}.",
                ],
                eval: &[
                    "How many inhabitants does {e} have?",
                    "How large is the population of {e}?",
                ],
            },
            Attribute {
                key: "roofs",
                values: Choice(&["slate", "thatch", "copper", "red tile", "turf", "cedar shingle"]),
                says: &[
                    "By old custom every roof is made of {v}.",
                    "The houses are white and roofed with {v}.",
                    "Roofs of {v} are the rule, even on sheds.",
                    "Seen from a mast, the town is all {v}: no other roof is allowed.",
                ],
                train: &[
                    "What are the roofs of {e} made of?",
                    "Name the roofing material of {e}.",
                    "With what are the houses in {e} covered?",
                ],
                eval: &[
                    "Which material covers the roofs in {e}?",
                    "Of what must a roof in {e} be made?",
                ],
            },
            Attribute {
                key: "market",
                values: Choice(&[
                    "Monday",
                    "Tuesday",
                    "Wednesday",
                    "Thursday",
                    "Friday",
                    "Saturday",
                    "Sunday",
                ]),
                says: &[
                    "The market is held on {v}, from first light until noon.",
                    "On {v} the square fills with stalls.",
                    "{v} is market day, and nobody sleeps late.",
                    "Farmers bring their carts to market every {v}.",
                ],
                train: &[
                    "When is the market held in {e}?",
                    "Name the market day of {e}.",
                    "Stalls fill the square of {e} on which day?",
                ],
                eval: &[
                    "What day of the week is market day in {e}?",
                    "On which weekday does {e} hold its market?",
                ],
            },
        ],
        fillers: &[
            "A bell is rung when fog comes in, and again when it leaves.",
            "Nets hang between the houses to dry.",
            "The oldest inn has low beams and a good fire.",
            "Children learn to row here before they learn to write.",
            "On clear days one can see three other shores from the wall.",
            "Its streets are steep, so goods are moved on sledges.",
            "The town council meets in a former sail loft.",
            "Cats are fed by everyone and owned by nobody.",
            "A row of lime trees leads from the quay to the upper gate.",
        ],
        missing_eval: Missing {
            pattern: "How many bakeries are there in {e}?",
            terms: &["bakery", "bakeries"],
        },
        missing_train: &["What is the motto of {e}?", "How deep is the water in the port of {e}?"],
    },
    Kind {
        noun: "bridge",
        names: &[
            "Upper Veldry Bridge",
            "Lower Veldry Bridge",
            "East Ferren Bridge",
            "West Ferren Bridge",
            "Haskel Bridge",
            "Morrowgate Bridge",
            "Tansel Bridge",
            "Ollerby Bridge",
            "Saltpenny Bridge",
            "Nine Herons Bridge",
        ],
        twins: &[
            ("Upper Veldry Bridge", "Lower Veldry Bridge", "year"),
            ("East Ferren Bridge", "West Ferren Bridge", "material"),
        ],
        nowhere: Some("Middle Veldry Bridge"),
        openings: &[
            "The {e} is one of the old crossings of the Meridian Isles.",
            "Carters and painters are equally fond of the {e}.",
            "The {e} carries the coast road over deep water.",
            "Every traveller on the inland road comes sooner or later to the {e}.",
        ],
        attributes: &[
            Attribute {
                key: "river",
                values: Choice(&[
                    "Ashlode",
                    "Tamrin",
                    "Grewel",
                    "Ossick",
                    "Lunder",
                    "Merrowburn",
                    "Paskel",
                ]),
                says: &[
                    "Beneath it flows the {v}, brown and quick.",
                    "It crosses the river {v} at a narrow place.",
                    "The river under it is the {v}.",
                    "It was put up where a ford over the {v} had drowned too many horses.",
                ],
                train: &[
                    "Which river does the {e} cross?",
                    "Name the river under the {e}.",
                    "Over what water was the {e} built?",
                ],
                eval: &["What river flows below the {e}?", "The {e} spans which river?"],
            },
            Attribute {
                key: "architect",
                values: Link(ARCHITECTS, "the architect of the {e}"),
                says: &[
                    "The plans were drawn by {v}.",
                    "{v} designed it and watched over every stone and beam.",
                    "Its design is the work of {v}.",
                    "{v} was the architect, and would not hear of a cheaper plan.",
                ],
                train: &[
                    "Who designed the {e}?",
                    "Name the designer of the {e}.",
                    "Whose plans did the builders of the {e} follow?",
                ],
                eval: &["Who was the architect of the {e}?", "By whom was the {e} planned?"],
            },
            Attribute {
                key: "year",
                values: YearAfter("architect"),
                says: &[
                    "It was finished in {v}, after a delay caused by floods.",
                    "The first cart rolled over it in {v}, the year of its completion.",
                    "Work ended in {v}.",
                    "A stone at one end gives {v} as the year in which it was completed.",
                ],
                train: &[
                    "When was the {e} finished?",
                    "Give the year in which the {e} was completed.",
                    "The building of the {e} ended in which year?",
                ],
                eval: &[
                    "In what year was work on the {e} brought to an end?",
                    "What is the completion year of the {e}?",
                ],
            },
            Attribute {
                key: "material",
                values: Choice(&[
                    "granite",
                    "sandstone",
                    "oak",
                    "wrought iron",
                    "limestone",
                    "brick",
                    "basalt",
                    "larch",
                ]),
                says: &[
                    "It is built of {v} throughout.",
                    "Its builders used {v}, brought in on flat boats.",
                    "The whole of it is made of {v}, which darkens in rain.",
                    "For the structure {v} was chosen.",
                ],
                train: &[
                    "What is the {e} made of?",
                    "Name the building material of the {e}.",
                    "What did workers use to build the {e}?",
                ],
                eval: &[
                    "Of which material does the {e} consist?",
                    "Which material was chosen for the {e}?",
                ],
            },
            Attribute {
                key: "length",
                values: Number(38, 410, "metres"),
                says: &[
                    "From bank to bank it measures {v} metres.",
                    "It is {v} metres long.",
                    "A walker covers {v} metres from one end to the other.",
                    "Its length is {v} metres.",
                ],
                train: &[
                    "How long is the {e} in metres?",
                    "Give the length of the {e} in metres.",
                    "What distance in metres does one walk on the {e}?",
                ],
                eval: &[
                    "How many metres does the {e} measure from end to end?",
                    "What is the {e}'s length in metres?",
                ],
            },
            Attribute {
                key: "arches",
                values: Count(3, 12),
                says: &[
                    "It stands on {v} arches.",
                    "Boats may choose among {v} arches.",
                    "There are {v} arches, no two of the same width.",
                    "Its weight is borne by {v} arches.",
                ],
                train: &[
                    "How many arches does the {e} have?",
                    "Give the number of arches of the {e}.",
                    "On how many arches does the {e} stand?",
                ],
                eval: &[
                    "What number of arches carries the {e}?",
                    "How many arches can be counted under the {e}?",
                ],
            },
        ],
        fillers: &[
            "Swallows nest under the deck in spring.",
            "Drivers of heavy carts are told to go at walking pace.",
            "The railings were renewed after a storm but keep the old pattern.",
            "Fishermen lean over the side in the evening, rarely with success.",
            "In dry summers the old piles of an earlier crossing can be seen.",
            "A small chapel at the northern end is always open.",
            "Painters like it best in the low light of autumn.",
            "Its upkeep is shared by the villages on both banks.",
            "Local people say that one must not look back while crossing.",
        ],
        missing_eval: Missing {
            pattern: "How high is the toll for crossing the {e}?",
            terms: &["toll", "tolls"],
        },
        missing_train: &[
            "How many lamps stand on the {e}?",
            "Who was the first person to fall from the {e}?",
        ],
    },
    Kind {
        noun: "guild",
        names: &[
            "Guild of the Inner Lantern",
            "Guild of the Outer Lantern",
            "Guild of the Copper Hand",
            "Guild of the Open Door",
            "Guild of the Split Oak",
            "Guild of the Long Table",
            "Guild of the Second Bell",
            "Guild of the Ninth Step",
            "Guild of the Plain Coat",
            "Guild of the Low Arch",
        ],
        twins: &[("Guild of the Inner Lantern", "Guild of the Outer Lantern", "emblem")],
        nowhere: Some("Guild of the Third Bell"),
        openings: &[
            "The {e} is one of the trade guilds of the Meridian Isles.",
            "Among the guilds of the Meridian Isles, the {e} is known for its strict rules.",
            "The {e} looks after its members from their first day at work to their last.",
            "Anyone who asks for good work in the Meridian Isles is sent to the {e}.",
        ],
        attributes: &[
            Attribute {
                key: "craft",
                values: Choice(&[
                    "glassblowing",
                    "bookbinding",
                    "rope-making",
                    "weaving",
                    "pottery",
                    "tanning",
                    "clockmaking",
                    "dyeing",
                    "basketry",
                    "stone carving",
                ]),
                says: &[
                    "Its craft is {v}.",
                    "The members practise {v} and nothing else.",
                    "It has charge of {v} in all the islands.",
                    "Whoever wants to live by {v} must join it.",
                ],
                train: &[
                    "Which craft belongs to the {e}?",
                    "What do members of the {e} do for a living?",
                    "Name the trade of the {e}.",
                ],
                eval: &[
                    "What craft does the {e} practise?",
                    "Over which craft does the {e} watch?",
                ],
            },
            Attribute {
                key: "seat",
                values: Link(TOWNS, "the town in which the {e} has its hall"),
                says: &[
                    "Its hall is in {v}.",
                    "The guild has its seat in {v}.",
                    "Meetings are held in {v}, where the hall stands.",
                    "{v} has been its home from the beginning.",
                ],
                train: &[
                    "Where is the hall of the {e}?",
                    "Name the home town of the {e}.",
                    "Where do the members of the {e} meet?",
                ],
                eval: &["In which town does the {e} have its seat?", "What town houses the {e}?"],
            },
            Attribute {
                key: "founded",
                values: Year(1400, 1700),
                says: &[
                    "It was founded in {v} after a quarrel about wages.",
                    "The oldest page of its rule book is dated {v}, the year of its foundation.",
                    "Its history begins in {v}.",
                    "A handful of masters founded it in {v}.",
                ],
                train: &[
                    "When was the {e} founded?",
                    "Give the founding year of the {e}.",
                    "The {e} began in which year?",
                ],
                eval: &[
                    "In what year was the {e} set up?",
                    "From which year does the history of the {e} run?",
                ],
            },
            Attribute {
                key: "emblem",
                values: Choice(&[
                    "otter", "heron", "badger", "hare", "raven", "salmon", "stag", "toad", "swan",
                    "beetle",
                ]),
                says: &[
                    "Its banner shows the figure of one animal, the {v}.",
                    "The emblem is the {v}.",
                    "Members wear a small silver {v} as their badge.",
                    "A carved {v}, the guild's emblem, sits above the door.",
                ],
                train: &[
                    "Which animal is on the banner of the {e}?",
                    "Name the animal badge of the {e}.",
                    "What creature stands for the {e}?",
                ],
                eval: &[
                    "What animal is the emblem of the {e}?",
                    "Which beast serves the {e} as its sign?",
                ],
            },
            Attribute {
                key: "members",
                values: Number(24, 480, "members"),
                says: &[
                    "At present it counts {v} members.",
                    "There are {v} names on the roll.",
                    "It has {v} members, apprentices not included.",
                    "Its {v} members vote by dropping pebbles into a jar.",
                ],
                train: &[
                    "How many members does the {e} have?",
                    "Give the size of the {e}.",
                    "How many people are on the roll of the {e}?",
                ],
                eval: &[
                    "What is the membership of the {e}?",
                    "By how many members is the {e} made up?",
                ],
            },
            Attribute {
                key: "master",
                values: Person,
                says: &[
                    "The present master is {v}.",
                    "{v} leads it as master.",
                    "Since the last election {v} has been its master.",
                    "The master's chain is worn by {v}.",
                ],
                train: &[
                    "Who leads the {e}?",
                    "Name the head of the {e}.",
                    "Who wears the chain of the {e}?",
                ],
                eval: &["Who is the master of the {e}?", "Which person presides over the {e}?"],
            },
        ],
        fillers: &[
            "Apprentices serve for seven years and complain for most of them.",
            "Bad work is broken in public, which happens rarely.",
            "Widows of members receive firewood every winter.",
            "Once a year its doors stand open and visitors may try the tools.",
            "Its accounts are read aloud, page by page, to all who care to listen.",
            "Quarrels between members are settled over supper.",
            "The guild owns a boat, a warehouse and a very old clock.",
            "New members plant a tree behind the hall.",
            "No member may speak of prices on a feast day.",
        ],
        missing_eval: Missing {
            pattern: "How much must a new member pay to enter the {e}?",
            terms: &["pay", "pays", "fee", "coins"],
        },
        missing_train: &[
            "What is the song of the {e}?",
            "How many apprentices failed at the {e} last year?",
        ],
    },
    Kind {
        noun: "festival",
        names: &[
            "Early Saltnight",
            "Late Saltnight",
            "Lanternfall",
            "Reedsong",
            "Gullswake",
            "Hallowmast",
            "Firstbarrel",
            "Marrowtide",
            "Candlewrack",
        ],
        twins: &[("Early Saltnight", "Late Saltnight", "month")],
        nowhere: Some("Middle Saltnight"),
        openings: &[
            "{e} is a festival of the Meridian Isles.",
            "People who have moved away from the Meridian Isles come home for {e}.",
            "The festival of {e} began as a simple thanksgiving.",
            "Nobody in the Meridian Isles works during {e}.",
        ],
        attributes: &[
            Attribute {
                key: "town",
                values: Link(TOWNS, "the town that celebrates {e}"),
                says: &[
                    "It is held in {v}.",
                    "The town of {v} is its host.",
                    "For the celebration everybody travels to {v}.",
                    "It belongs to {v}, and no other town has managed to copy it.",
                ],
                train: &[
                    "Where is {e} held?",
                    "Name the host town of {e}.",
                    "To which town do people travel for {e}?",
                ],
                eval: &["Which town celebrates {e}?", "In what town does {e} take place?"],
            },
            Attribute {
                key: "month",
                values: Choice(MONTHS),
                says: &[
                    "It takes place in {v}, whatever the weather.",
                    "The feast falls in {v}.",
                    "Each year in {v} the first drums are heard.",
                    "{v} is its month.",
                ],
                train: &[
                    "When in the year is {e}?",
                    "Name the month of {e}.",
                    "{e} falls in which month?",
                ],
                eval: &["In what month is {e} celebrated?", "During which month does {e} happen?"],
            },
            Attribute {
                key: "days",
                values: Count(2, 9),
                says: &[
                    "It lasts {v} days.",
                    "For {v} days the shops stay shut.",
                    "The celebration goes on for {v} days and ends in silence.",
                    "After {v} days the fires are put out and it is over.",
                ],
                train: &[
                    "How long does {e} last?",
                    "Give the length of {e} in days.",
                    "For how many days do people celebrate {e}?",
                ],
                eval: &["How many days does {e} go on?", "What is the duration of {e} in days?"],
            },
            Attribute {
                key: "dish",
                values: Choice(&[
                    "smoked eel",
                    "onion pie",
                    "plum dumplings",
                    "barley soup",
                    "roast goose",
                    "honey cake",
                    "pickled herring",
                    "mussel stew",
                    "chestnut bread",
                ]),
                says: &[
                    "The proper dish is {v}, served in the open air.",
                    "Everyone eats {v} on the first evening.",
                    "Families prepare {v} for the occasion.",
                    "No table is complete without {v}.",
                ],
                train: &[
                    "What do people eat at {e}?",
                    "Name the dish served at {e}.",
                    "Which food belongs to {e}?",
                ],
                eval: &["What is the traditional dish of {e}?", "Which meal goes with {e}?"],
            },
            Attribute {
                key: "colour",
                values: Choice(COLOURS),
                says: &[
                    "Doors are hung with {v} ribbons.",
                    "The colour of the feast is {v}, and all the flags show it.",
                    "Dancers dress in {v} from head to foot.",
                    "Every boat flies a {v} flag.",
                ],
                train: &[
                    "Which colour belongs to {e}?",
                    "Name the colour of the flags at {e}.",
                    "What colour do people show at {e}?",
                ],
                eval: &["What is the colour of {e}?", "In which colour is {e} decorated?"],
            },
            Attribute {
                key: "since",
                values: Year(1300, 1700),
                says: &[
                    "It was first held in {v}, after a winter of hunger.",
                    "The custom goes back to {v}.",
                    "Records mention it for the first time in {v}.",
                    "Since {v} it has been kept every year.",
                ],
                train: &[
                    "When was {e} first held?",
                    "Give the year of the first {e}.",
                    "The custom of {e} goes back to which year?",
                ],
                eval: &[
                    "Since what year has {e} been kept?",
                    "In which year did {e} begin as a custom?",
                ],
            },
        ],
        fillers: &[
            "Old people complain that it was louder in their youth.",
            "Strangers are welcome and are given the best places.",
            "There is a race of rowing boats, and cheating is expected.",
            "Children carry paper fish on long sticks.",
            "At dusk everyone walks once round the harbour.",
            "The last evening belongs to the fiddlers.",
            "Fishermen give away the whole of their catch.",
            "Nobody may quarrel until the fires are out.",
            "Masks are made from bark and worn only once.",
        ],
        missing_eval: Missing {
            pattern: "Who composed the anthem of {e}?",
            terms: &["anthem", "composed", "composer"],
        },
        missing_train: &["How many visitors came to the last {e}?", "Which prayer opens {e}?"],
    },
    Kind {
        noun: "instrument",
        names: &[
            "tall sundrel",
            "short sundrel",
            "orvel",
            "grimlet",
            "hasp-viol",
            "louvrin",
            "pellichord",
            "cradle-lyre",
            "marrobin",
        ],
        twins: &[("tall sundrel", "short sundrel", "strings")],
        nowhere: Some("round sundrel"),
        openings: &[
            "The {e} is a stringed instrument of the Meridian Isles.",
            "No dance in the Meridian Isles is complete without the {e}.",
            "The {e} has a soft and slightly nasal sound.",
            "Players of the {e} are in demand at weddings and launchings.",
        ],
        attributes: &[
            Attribute {
                key: "inventor",
                values: Link(LUTHIERS, "the inventor of the {e}"),
                says: &[
                    "It was invented by {v}.",
                    "{v} made the first one, out of a broken chair.",
                    "Its inventor was {v}.",
                    "The idea came to {v}, who built one in secret.",
                ],
                train: &[
                    "Who invented the {e}?",
                    "Name the maker of the first {e}.",
                    "To whom came the idea of the {e}?",
                ],
                eval: &["Who was the inventor of the {e}?", "By whom was the {e} devised?"],
            },
            Attribute {
                key: "year",
                values: YearAfter("inventor"),
                says: &[
                    "The first one was heard in public in {v}.",
                    "It dates from {v}.",
                    "The year of the invention was {v}.",
                    "In {v} the first was shown to a doubtful audience.",
                ],
                train: &[
                    "When was the {e} invented?",
                    "Give the year of the first {e}.",
                    "The {e} was first heard in which year?",
                ],
                eval: &[
                    "In what year did the {e} make its first appearance?",
                    "From which year does the {e} date?",
                ],
            },
            Attribute {
                key: "strings",
                values: Count(3, 12),
                says: &[
                    "It has {v} strings.",
                    "Its {v} strings are made of gut.",
                    "There are {v} strings, tuned afresh before each piece.",
                    "A player must master {v} strings.",
                ],
                train: &[
                    "How many strings does the {e} have?",
                    "Give the number of strings of the {e}.",
                    "How many strings must a player of the {e} master?",
                ],
                eval: &[
                    "With how many strings is the {e} fitted?",
                    "What is the {e}'s number of strings?",
                ],
            },
            Attribute {
                key: "wood",
                values: Choice(&[
                    "pear wood",
                    "maple",
                    "cherry wood",
                    "walnut",
                    "ash",
                    "cedar",
                    "beech",
                    "yew",
                ]),
                says: &[
                    "The body is carved from {v}.",
                    "Makers insist on {v} for the body.",
                    "Its body is of {v}, oiled but never painted.",
                    "Only {v} gives the body the right tone.",
                ],
                train: &[
                    "What wood is the {e} made of?",
                    "Name the wood used for the body of the {e}.",
                    "From what is the {e} carved?",
                ],
                eval: &[
                    "Which wood do makers use for the {e}?",
                    "Of which wood is the {e}'s body?",
                ],
            },
            Attribute {
                key: "length",
                values: Number(35, 180, "centimetres"),
                says: &[
                    "From end to end it measures {v} centimetres.",
                    "A full-sized one is {v} centimetres long.",
                    "Its length is fixed at {v} centimetres.",
                    "The rules of the players set its length at {v} centimetres.",
                ],
                train: &[
                    "How long is the {e} in centimetres?",
                    "Give the length of the {e} in centimetres.",
                    "What length in centimetres do the rules set for the {e}?",
                ],
                eval: &[
                    "How many centimetres does the {e} measure?",
                    "What is the {e}'s size from end to end, in centimetres?",
                ],
            },
        ],
        fillers: &[
            "It is held on the left knee and plucked with two fingers.",
            "Beginners find it hard to keep in tune.",
            "Damp weather makes it sulk, as players like to say.",
            "A good one is passed down in the family.",
            "Its sound carries well over water.",
            "Few pieces were ever written down for it; most are learned by ear.",
            "Some players add a small bell to the neck.",
            "It is never played after a funeral until the moon has changed.",
            "The case is often finer than what lies inside.",
            "Travelling players sling it over the back with a broad strap.",
        ],
        missing_eval: Missing {
            pattern: "What is the weight of the {e}?",
            terms: &["weigh", "weighs", "heavy as"],
        },
        missing_train: &[
            "How much does a new {e} cost?",
            "Who was the most famous player of the {e}?",
        ],
    },
    Kind {
        noun: "treaty",
        names: &[
            "Reed Accord of Sallowen",
            "Stone Accord of Sallowen",
            "Peace of Ninnerholt",
            "Pact of Ostering",
            "Vellish Treaty",
            "Treaty of Dry Marren",
            "Pact of Greysail Sound",
            "Accord of Winmarrow",
        ],
        twins: &[("Reed Accord of Sallowen", "Stone Accord of Sallowen", "year")],
        nowhere: Some("Glass Accord of Sallowen"),
        openings: &[
            "The {e} ended a long quarrel in the Meridian Isles.",
            "Lawyers in the Meridian Isles still quote the {e}.",
            "The {e} is among the most admired agreements in the history of the islands.",
            "Every pupil in the Meridian Isles has to learn about the {e}.",
        ],
        attributes: &[
            Attribute {
                key: "town",
                values: Link(TOWNS, "the town in which the {e} was signed"),
                says: &[
                    "It was signed in {v}.",
                    "The parties met and signed in {v}.",
                    "{v} was chosen as the place of signing.",
                    "The signing took place at {v}, in a cold hall.",
                ],
                train: &[
                    "Where was the {e} signed?",
                    "Name the place where the {e} was signed.",
                    "Where did the parties to the {e} meet?",
                ],
                eval: &[
                    "In which town was the {e} concluded?",
                    "What town saw the signing of the {e}?",
                ],
            },
            Attribute {
                key: "year",
                values: Year(1450, 1800),
                says: &[
                    "The date under the text is {v}.",
                    "Agreement was reached in {v}.",
                    "It was concluded in {v}, at the third attempt.",
                    "In {v} both sides put their seals to it.",
                ],
                train: &[
                    "When was the {e} signed?",
                    "Give the year of the {e}.",
                    "Both sides sealed the {e} in which year?",
                ],
                eval: &[
                    "In what year was agreement on the {e} reached?",
                    "Of which year is the {e}?",
                ],
            },
            Attribute {
                key: "articles",
                values: Number(13, 64, "articles"),
                says: &[
                    "It consists of {v} articles.",
                    "Its {v} articles fit on one large sheet.",
                    "The text is divided into {v} articles.",
                    "There are {v} articles, most of them a single sentence.",
                ],
                train: &[
                    "How many articles are in the {e}?",
                    "Give the number of articles of the {e}.",
                    "Into how many articles is the {e} divided?",
                ],
                eval: &[
                    "What number of articles does the {e} contain?",
                    "How many articles make up the {e}?",
                ],
            },
            Attribute {
                key: "dispute",
                values: Choice(&[
                    "herring grounds",
                    "grazing rights",
                    "salt duties",
                    "timber",
                    "ferry fares",
                    "fresh water",
                    "oyster beds",
                    "a lost cargo",
                ]),
                says: &[
                    "The quarrel had been about {v}.",
                    "What divided the two sides was {v}.",
                    "It settled the matter of {v}.",
                    "Its subject is {v}, over which blood had been shed.",
                ],
                train: &[
                    "What was the quarrel behind the {e} about?",
                    "Name the matter that the {e} settled.",
                    "What divided the two sides before the {e}?",
                ],
                eval: &["Which dispute did the {e} end?", "What is the subject of the {e}?"],
            },
            Attribute {
                key: "mediator",
                values: Person,
                says: &[
                    "{v} acted as mediator and slept little.",
                    "The talks were led by {v}, the mediator.",
                    "Both sides trusted {v}, who went between them as mediator.",
                    "As mediator they had accepted {v}.",
                ],
                train: &[
                    "Who led the talks for the {e}?",
                    "Name the go-between of the {e}.",
                    "Whom did both sides of the {e} trust?",
                ],
                eval: &["Who was the mediator of the {e}?", "Which person mediated the {e}?"],
            },
        ],
        fillers: &[
            "Two copies were made, and both have survived.",
            "The talks nearly failed over the seating at table.",
            "Neither side got all that it wanted, which is why it held.",
            "Its language is plain, and every child can read it.",
            "A feast followed, though the guests ate in separate rooms.",
            "It has been broken only once, by mistake.",
            "The seals show a knot and an open hand.",
            "On its anniversary both sides exchange a loaf of bread.",
            "Some of its rules are still in force.",
        ],
        missing_eval: Missing {
            pattern: "What colour of ink was used for the {e}?",
            terms: &["ink"],
        },
        missing_train: &["How many witnesses stood by at the {e}?", "Who broke the {e} first?"],
    },
    Kind {
        noun: "ship",
        names: &[
            "Vessin Gull",
            "Vessin Tern",
            "Ardent Merrow",
            "Hollin Star",
            "Lady Issovar",
            "Patient Osprin",
            "Sorrel Maid",
            "Northern Wickett",
            "Tamarrel",
        ],
        twins: &[("Vessin Gull", "Vessin Tern", "cargo")],
        nowhere: Some("Vessin Petrel"),
        openings: &[
            "The {e} was a trading ship of the Meridian Isles.",
            "Models of the {e} hang in many kitchens of the Meridian Isles.",
            "The {e} is one of the few ships of its time whose papers are complete.",
            "Old sailors lower their voices when they speak of the {e}.",
        ],
        attributes: &[
            Attribute {
                key: "builder",
                values: Link(SHIPWRIGHTS, "the builder of the {e}"),
                says: &[
                    "The ship was built by {v}.",
                    "{v} built her from the keel up.",
                    "Her builder was {v}.",
                    "She came from the yard of {v}.",
                ],
                train: &[
                    "Who built the {e}?",
                    "Name the shipwright of the {e}.",
                    "From whose yard came the {e}?",
                ],
                eval: &["Who was the builder of the {e}?", "By whom was the {e} constructed?"],
            },
            Attribute {
                key: "launched",
                values: YearAfter("builder"),
                says: &[
                    "She was launched in {v} before a large crowd.",
                    "The launch was in {v}.",
                    "In {v} she first touched the water.",
                    "Her papers give {v} as the year of launching.",
                ],
                train: &[
                    "When was the {e} launched?",
                    "Give the launch year of the {e}.",
                    "The {e} first touched the water in which year?",
                ],
                eval: &[
                    "In what year did the launch of the {e} take place?",
                    "What year did the {e} leave the slipway?",
                ],
            },
            Attribute {
                key: "masts",
                values: Count(2, 5),
                says: &[
                    "She carried {v} masts.",
                    "With {v} masts she was easy to recognise.",
                    "Her {v} masts were of mountain pine.",
                    "She had {v} masts and rolled badly.",
                ],
                train: &[
                    "How many masts did the {e} carry?",
                    "Give the number of masts of the {e}.",
                    "By how many masts could one recognise the {e}?",
                ],
                eval: &[
                    "What number of masts did the {e} have?",
                    "With how many masts did the {e} sail?",
                ],
            },
            Attribute {
                key: "cargo",
                values: Choice(&[
                    "tar",
                    "wool",
                    "copper ore",
                    "dried peas",
                    "candles",
                    "tea",
                    "roof slates",
                    "vinegar",
                    "marble",
                    "lamp oil",
                ]),
                says: &[
                    "Her usual cargo was {v}.",
                    "For most of her life she carried {v}.",
                    "She was loaded with {v} on nearly every voyage.",
                    "Her owners grew rich on {v}, which filled her hold.",
                ],
                train: &[
                    "What did the {e} carry?",
                    "Name the goods in the hold of the {e}.",
                    "With what was the {e} loaded?",
                ],
                eval: &[
                    "What was the usual cargo of the {e}?",
                    "Which goods did the {e} transport?",
                ],
            },
            Attribute {
                key: "port",
                values: Link(TOWNS, "the home port of the {e}"),
                says: &[
                    "Her home port was {v}.",
                    "She sailed out of {v}.",
                    "She was registered at {v}, her home port.",
                    "Her crew came from {v}, and there she wintered.",
                ],
                train: &[
                    "Where was the {e} at home?",
                    "Name the port of the {e}.",
                    "Where was the {e} registered?",
                ],
                eval: &["What was the home port of the {e}?", "To which port did the {e} belong?"],
            },
            Attribute {
                key: "length",
                values: Number(17, 58, "metres"),
                says: &[
                    "She was {v} metres long.",
                    "Her length was {v} metres.",
                    "From bow to stern she measured {v} metres.",
                    "Between bow and stern lay {v} metres of deck.",
                ],
                train: &[
                    "How long was the {e} in metres?",
                    "Give the length of the {e} in metres.",
                    "What length of deck, in metres, had the {e}?",
                ],
                eval: &[
                    "How many metres did the {e} measure from bow to stern?",
                    "What was the {e}'s length in metres?",
                ],
            },
        ],
        fillers: &[
            "She was slow before the wind and quick against it.",
            "Her figurehead, a laughing woman, lost its nose in a collision.",
            "Rats were said to leave her early and come back late.",
            "Three captains in a row refused to sell her.",
            "Her sails were dyed dark so that salt would not show.",
            "She once drifted for a month and came home with every hand alive.",
            "Her logbooks can be read in the harbour office.",
            "Her bell now hangs in a school.",
            "A song about her last voyage has far too many verses.",
        ],
        missing_eval: Missing {
            pattern: "Who was the first cook aboard the {e}?",
            terms: &["cook", "galley"],
        },
        missing_train: &["How many anchors did the {e} have?", "Which flag did the {e} fly?"],
    },
    Kind {
        noun: "lighthouse",
        names: &[
            "Inner Skerrow Light",
            "Outer Skerrow Light",
            "Fellen Point Light",
            "Mandrel Light",
            "Gannick Light",
            "Widow Tooth Light",
            "Oum Sands Light",
            "Brakken Light",
        ],
        twins: &[("Inner Skerrow Light", "Outer Skerrow Light", "height")],
        nowhere: Some("Upper Skerrow Light"),
        openings: &[
            "The {e} warns ships off a bad stretch of rocks.",
            "The {e} is a lighthouse of the Meridian Isles.",
            "Pilots in the Meridian Isles steer by the {e}.",
            "On stormy nights the {e} is the only friend of the fishing fleet.",
        ],
        attributes: &[
            Attribute {
                key: "island",
                values: Link(ISLANDS, "the island of the {e}"),
                says: &[
                    "It stands on {v}.",
                    "It was set up on the coast of {v}.",
                    "The island on which it stands is {v}.",
                    "It marks the most dangerous cape of {v}.",
                ],
                train: &[
                    "Where does the {e} stand?",
                    "Name the island of the {e}.",
                    "The coast of what island does the {e} mark?",
                ],
                eval: &["On which island was the {e} built?", "What island is home to the {e}?"],
            },
            Attribute {
                key: "height",
                values: Number(14, 66, "metres"),
                says: &[
                    "The tower is {v} metres high.",
                    "From rock to roof it measures {v} metres.",
                    "Its tower rises {v} metres.",
                    "It reaches a height of {v} metres.",
                ],
                train: &[
                    "How high is the {e} in metres?",
                    "Give the height of the {e} in metres.",
                    "To what height in metres does the {e} rise?",
                ],
                eval: &["How many metres tall is the {e}?", "What is the {e}'s height in metres?"],
            },
            Attribute {
                key: "fuel",
                values: Choice(&[
                    "whale oil",
                    "rapeseed oil",
                    "coal",
                    "paraffin",
                    "tallow",
                    "acetylene",
                    "seal oil",
                    "peat gas",
                ]),
                says: &[
                    "Its lamp burns {v}.",
                    "The flame is fed with {v}.",
                    "By tradition the lamp still runs on {v}.",
                    "Barrels of {v} for the lamp are landed twice a year.",
                ],
                train: &[
                    "What does the lamp of the {e} burn?",
                    "Name the fuel of the {e}.",
                    "With what is the flame of the {e} fed?",
                ],
                eval: &["Which fuel does the {e} use?", "On what does the lamp of the {e} run?"],
            },
            Attribute {
                key: "lit",
                values: Year(1650, 1850),
                says: &[
                    "It was first lit in {v}.",
                    "Since {v} its beam has swept the water.",
                    "The lamp was kindled for the first time in {v}.",
                    "It has been in service since {v}.",
                ],
                train: &[
                    "When was the {e} first lit?",
                    "Give the first year of the {e}.",
                    "The lamp of the {e} was kindled in which year?",
                ],
                eval: &[
                    "In what year did the {e} begin to shine?",
                    "Since which year has the {e} been at work?",
                ],
            },
            Attribute {
                key: "keeper",
                values: Person,
                says: &[
                    "The first keeper was {v}.",
                    "{v} was its first keeper and stayed for life.",
                    "As first keeper {v} climbed the stairs four times a night.",
                    "The post of first keeper went to {v}.",
                ],
                train: &[
                    "Who kept the {e} at the beginning?",
                    "Name the first keeper of the {e}.",
                    "Who got the first post of keeper at the {e}?",
                ],
                eval: &["Who was the {e}'s first keeper?", "By whom was the {e} kept first?"],
            },
            Attribute {
                key: "flash",
                values: Count(4, 12),
                says: &[
                    "Its beam flashes every {v} seconds.",
                    "There are {v} seconds between two flashes.",
                    "A flash comes every {v} seconds.",
                    "Sailors count {v} seconds from flash to flash.",
                ],
                train: &[
                    "How often does the {e} flash?",
                    "Give the seconds from flash to flash of the {e}.",
                    "How many seconds do sailors count at the {e}?",
                ],
                eval: &[
                    "How many seconds pass between the flashes of the {e}?",
                    "What is the interval of the {e} in seconds?",
                ],
            },
        ],
        fillers: &[
            "Supplies arrive by boat, when the swell permits.",
            "A vegetable patch is sheltered by a ring of stones.",
            "In thick weather a horn is blown by hand.",
            "The stairs are worn hollow in the middle.",
            "Seals rest on the ledges below.",
            "Keepers pass their free hours by carving spoons.",
            "Its walls are painted anew each spring.",
            "Lost birds strike the glass on autumn nights.",
            "From the gallery one can hear the surf long before seeing it.",
        ],
        missing_eval: Missing {
            pattern: "How many windows does the {e} have?",
            terms: &["window", "windows"],
        },
        missing_train: &[
            "Which wreck lies nearest to the {e}?",
            "What is the name of the boat of the {e}?",
        ],
    },
    Kind {
        noun: "book",
        names: &[
            "Herbal of the High Fields",
            "Herbal of the Low Fields",
            "Letters from Ouven Strand",
            "Ledger of Small Winds",
            "Salt and Sennet",
            "Nine Doors at Marrel House",
            "Grammar of Bells",
            "Songs for an Empty Quay",
            "Atlas of Quiet Water",
        ],
        twins: &[("Herbal of the High Fields", "Herbal of the Low Fields", "pages")],
        nowhere: Some("Herbal of the Wet Fields"),
        openings: &[
            "{e} is a book that most households of the Meridian Isles own in some form.",
            "The book {e} is counted among the treasures of the Meridian Isles.",
            "No book of the Meridian Isles has been copied more often than {e}.",
            "{e} is a strange and patient book.",
        ],
        attributes: &[
            Attribute {
                key: "author",
                values: Link(WRITERS, "the author of {e}"),
                says: &[
                    "It was written by {v}.",
                    "Its author is {v}.",
                    "{v} wrote it in a rented room.",
                    "The name on the title page is that of {v}, who wrote it.",
                ],
                train: &[
                    "Who wrote {e}?",
                    "Name the writer of {e}.",
                    "Whose name is on the title page of {e}?",
                ],
                eval: &["Who is the author of {e}?", "By whom was the book {e} written?"],
            },
            Attribute {
                key: "year",
                values: YearAfter("author"),
                says: &[
                    "It appeared in {v}.",
                    "The first printing is of {v}.",
                    "In {v} it came from the press.",
                    "It was published in {v}, at the printer's own risk.",
                ],
                train: &[
                    "When did {e} appear?",
                    "Give the year of publication of {e}.",
                    "{e} came from the press in which year?",
                ],
                eval: &[
                    "In what year was {e} published?",
                    "What year saw the first printing of {e}?",
                ],
            },
            Attribute {
                key: "pages",
                values: Number(64, 720, "pages"),
                says: &[
                    "It runs to {v} pages.",
                    "It has {v} pages, some of them blank on purpose.",
                    "On its {v} pages there is not one picture.",
                    "The whole fills {v} pages.",
                ],
                train: &[
                    "How many pages does {e} have?",
                    "Give the length of {e} in pages.",
                    "How many pages does {e} fill?",
                ],
                eval: &[
                    "What is the number of pages of {e}?",
                    "To how many pages does the book {e} run?",
                ],
            },
            Attribute {
                key: "binding",
                values: Choice(&[
                    "green cloth",
                    "calfskin",
                    "sealskin",
                    "red leather",
                    "sailcloth",
                    "parchment",
                    "birch board",
                    "blue velvet",
                ]),
                says: &[
                    "The original copy is bound in {v}.",
                    "Its first binding is of {v}.",
                    "For the binding {v} was used.",
                    "The first edition wears a binding of {v}.",
                ],
                train: &[
                    "How was {e} bound?",
                    "Name the binding of {e}.",
                    "With what is the original copy of {e} covered?",
                ],
                eval: &["In what is {e} bound?", "Which material forms the binding of {e}?"],
            },
            Attribute {
                key: "library",
                values: Link(TOWNS, "the town whose library keeps {e}"),
                says: &[
                    "The original is kept in the library of {v}.",
                    "The library at {v} guards the first copy.",
                    "Readers who want to see the original must go to {v}, where the library keeps it.",
                    "{v} has the original in its library.",
                ],
                train: &[
                    "Where is the original of {e} kept?",
                    "Name the place whose library guards {e}.",
                    "Where must one go to see the original of {e}?",
                ],
                eval: &[
                    "In which town's library is the book {e} preserved?",
                    "What town owns the original of {e}?",
                ],
            },
            Attribute {
                key: "copies",
                values: Count(2, 12),
                says: &[
                    "Only {v} early copies survive.",
                    "Of the first edition {v} copies are left.",
                    "Collectors know of {v} early copies.",
                    "Fire and damp have spared just {v} early copies.",
                ],
                train: &[
                    "How many early copies of {e} are left?",
                    "Give the number of surviving copies of {e}.",
                    "Of how many early copies of {e} do collectors know?",
                ],
                eval: &[
                    "How many copies of the first edition of {e} survive?",
                    "What number of early copies of {e} still exists?",
                ],
            },
        ],
        fillers: &[
            "It can be opened anywhere and read with profit.",
            "Its sentences are short, and its margins are wide.",
            "Teachers use it for dictation.",
            "Some readers find it cold; others read it every winter.",
            "The last chapter was added against the printer's advice.",
            "A pirated printing is full of charming mistakes.",
            "It is quoted at weddings, not always correctly.",
            "Its title is explained nowhere in the text.",
            "The opening line is known by heart on every quay.",
        ],
        missing_eval: Missing {
            pattern: "To whom did the writer dedicate {e}?",
            terms: &["dedicate", "dedicated", "dedication"],
        },
        missing_train: &["What was the first price of {e}?", "Who drew the frontispiece of {e}?"],
    },
    Kind {
        noun: "plant",
        names: &[
            "early marrowbell",
            "late marrowbell",
            "velmint",
            "dunwort",
            "skerrythorn",
            "oumgrass",
            "candle-sorrel",
            "pellweed",
            "grey hesperil",
        ],
        twins: &[("early marrowbell", "late marrowbell", "month")],
        nowhere: None,
        openings: &[
            "The {e} is a plant of the Meridian Isles.",
            "Walkers in the Meridian Isles soon learn to know the {e}.",
            "The {e} grows where most other plants give up.",
            "Herb sellers in the Meridian Isles speak highly of the {e}.",
        ],
        attributes: &[
            Attribute {
                key: "island",
                values: Link(ISLANDS, "the island on which the {e} grows"),
                says: &[
                    "It is found on {v} and nowhere else.",
                    "In the wild it grows only on {v}.",
                    "{v} is the one island on which it thrives.",
                    "Every attempt to grow it away from {v} has failed.",
                ],
                train: &[
                    "Where does the {e} grow?",
                    "Name the home island of the {e}.",
                    "The {e} is found only on what island?",
                ],
                eval: &[
                    "On which island can the {e} be found?",
                    "What island is the {e} native to?",
                ],
            },
            Attribute {
                key: "colour",
                values: Choice(COLOURS),
                says: &[
                    "Its flowers are {v}.",
                    "The petals are {v} and close at night.",
                    "It bears {v} flowers.",
                    "One knows it by its {v} flowers.",
                ],
                train: &[
                    "What colour are the flowers of the {e}?",
                    "Name the colour of the petals of the {e}.",
                    "By what colour does one know the {e}?",
                ],
                eval: &[
                    "Which colour do the blossoms of the {e} have?",
                    "In what colour does the {e} flower?",
                ],
            },
            Attribute {
                key: "month",
                values: Choice(MONTHS),
                says: &[
                    "It blooms in {v}.",
                    "The first flowers open in {v}.",
                    "Its flowering month is {v}.",
                    "In {v} it is covered with blossom.",
                ],
                train: &[
                    "When does the {e} bloom?",
                    "Name the flowering month of the {e}.",
                    "The {e} opens its flowers in which month?",
                ],
                eval: &[
                    "In what month is the {e} in blossom?",
                    "During which month does the {e} flower?",
                ],
            },
            Attribute {
                key: "remedy",
                values: Choice(&[
                    "toothache",
                    "insomnia",
                    "hiccups",
                    "sore throats",
                    "bee stings",
                    "headaches",
                    "seasickness",
                    "chilblains",
                    "burns",
                ]),
                says: &[
                    "A tea made from it is given against {v}.",
                    "Healers use it to treat {v}.",
                    "It is the usual remedy for {v}.",
                    "People who suffer from {v} chew the leaves.",
                ],
                train: &[
                    "What is the {e} good for?",
                    "Name the complaint that healers treat with the {e}.",
                    "What do people treat by chewing the {e}?",
                ],
                eval: &[
                    "Against which complaint does the {e} help?",
                    "For what is the {e} a remedy?",
                ],
            },
            Attribute {
                key: "height",
                values: Number(12, 190, "centimetres"),
                says: &[
                    "A grown plant is {v} centimetres high.",
                    "It reaches {v} centimetres.",
                    "Its stem grows to {v} centimetres.",
                    "In good soil it stands {v} centimetres tall.",
                ],
                train: &[
                    "How high does the {e} grow in centimetres?",
                    "Give the height of the {e} in centimetres.",
                    "To what height in centimetres does the stem of the {e} grow?",
                ],
                eval: &[
                    "How many centimetres tall is a grown {e}?",
                    "What is the {e}'s full height in centimetres?",
                ],
            },
        ],
        fillers: &[
            "Goats avoid it, though bees do not.",
            "The leaves are narrow and a little sticky.",
            "It likes wind, salt and poor soil.",
            "Gardeners have tried to tame it with little success.",
            "Its scent is strongest after rain.",
            "The dried leaves are hung above doors for luck.",
            "It must be gathered with a wooden knife, or so people say.",
            "Seeds travel in the wool of sheep.",
            "In a hard winter it dies back and returns from below.",
            "Painters have often chosen it for the borders of maps.",
        ],
        missing_eval: Missing {
            pattern: "How many seeds does a pod of the {e} hold?",
            terms: &["pod", "pods"],
        },
        missing_train: &["Which insect feeds on the {e}?", "How deep do the roots of the {e} go?"],
    },
];
