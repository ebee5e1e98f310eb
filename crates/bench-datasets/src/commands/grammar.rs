//! The language of the commands: functions, the order of their attributes, sentence frames, the
//! ways to add an attribute to a sentence, and the values.
//!
//! A slot is written `<attribute>`. A frame that ends in a full stop or a question mark is a whole
//! sentence; any other is an imperative that can be wrapped ("could you …?") and can go on with "and".

/// The values that an attribute takes and how a sentence says them.
pub(super) enum Values {
    /// Said as written.
    Plain(&'static [&'static str]),
    /// A value and the ways to say it.
    Spoken(&'static [(&'static str, &'static [&'static str])]),
    /// A number between the two, said in digits or as a word.
    Number(u32, u32),
    /// A time of day, said on either clock or in words; its value is HH:MM on the 24-hour clock.
    Time,
}
use Values::{Number, Plain, Spoken, Time};

/// One function of the assistant.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Every attribute it can take, in the canonical order of the form.
    pub(super) attributes: &'static [&'static str],
    /// Attributes that a frame can be given beside its own, and how.
    pub(super) optional: &'static [(&'static str, &'static [&'static str])],
    /// Attributes that do not go together.
    pub(super) conflicts: &'static [(&'static str, &'static str)],
    pub(super) train: &'static [&'static str],
    pub(super) eval: &'static [&'static str],
}

/// Wrappers of an imperative; `{}` is the imperative.
pub(super) const WRAPPERS: &[&str] = &[
    "{}.",
    "{}.",
    "please {}.",
    "{}, please.",
    "could you {}?",
    "can you {}?",
    "would you {}, please?",
    "I'd like you to {}.",
    "I need you to {}.",
    "hey, {}.",
];

const AT: &[&str] = &["at <time>"];
const ON: &[&str] = &["<day>"];
const IN: &[&str] = &["in the <room>"];
const FOR: &[&str] = &["for <duration>"];
const LABEL: &[&str] = &["with the label <label>", "and label it <label>", "and call it <label>"];
const SOUND: &[&str] =
    &["with a <sound> sound", "using the <sound> tone", "and use the <sound> sound"];

/// The ways to say a modifier that may open a sentence.
pub(super) const OPENERS: &[&str] = &["day", "time", "repeat", "room"];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "set_alarm",
        attributes: &["time", "day", "repeat", "label", "room"],
        optional: &[("day", ON), ("repeat", &["<repeat>"]), ("label", LABEL), ("room", IN)],
        conflicts: &[("day", "repeat")],
        train: &[
            "set an alarm for <time>",
            "set the alarm to ring at <time>",
            "wake me up at <time>",
            "give me a wake-up call at <time>",
            "have the alarm go off at <time>",
            "I want an alarm at <time>.",
        ],
        eval: &[
            "make sure the alarm sounds at <time>",
            "rouse me at <time>",
            "The alarm should ring when it is <time>.",
        ],
    },
    Function {
        name: "start_timer",
        attributes: &["duration", "label", "sound", "room"],
        optional: &[("label", LABEL), ("sound", SOUND), ("room", IN)],
        conflicts: &[],
        train: &[
            "start a timer for <duration>",
            "set a timer of <duration>",
            "count down <duration>",
            "put <duration> on the timer",
            "begin a countdown of <duration>",
            "I need a timer that runs for <duration>.",
        ],
        eval: &[
            "let the timer run for <duration>",
            "time <duration> for me",
            "A timer has to ring after <duration>.",
        ],
    },
    Function {
        name: "add_reminder",
        attributes: &["person", "task", "day", "time", "place"],
        optional: &[
            ("day", ON),
            ("time", AT),
            ("place", &["on arrival at the <place>", "once we are at the <place>"]),
        ],
        conflicts: &[("place", "time"), ("place", "day")],
        train: &[
            "remind me to <task>",
            "add a reminder to <task>",
            "tell me to <task>",
            "remind <person> to <task>",
            "add a reminder for <person> to <task>",
            "leave a note telling <person> to <task>",
        ],
        eval: &[
            "do not let me forget to <task>",
            "I have to remember to <task>.",
            "make sure that <person> remembers to <task>",
            "see to it that <person> does not forget to <task>",
        ],
    },
    Function {
        name: "send_message",
        attributes: &["person", "message", "channel", "day", "time"],
        optional: &[("day", ON), ("time", AT)],
        conflicts: &[],
        train: &[
            "tell <person> that <message>",
            "let <person> know that <message>",
            "inform <person> that <message>",
            "write to <person> by <channel> that <message>",
            "tell <person> by <channel> that <message>",
            "use <channel> to let <person> know that <message>",
        ],
        eval: &[
            "get word to <person> that <message>",
            "I want <person> to hear that <message>.",
            "drop <person> a line by <channel>, saying that <message>",
            "pass on to <person> by <channel> that <message>",
        ],
    },
    Function {
        name: "play_music",
        attributes: &["artist", "genre", "room", "volume", "duration"],
        optional: &[
            ("room", IN),
            (
                "volume",
                &[
                    "at volume <volume>",
                    "with the volume at <volume>",
                    "and set the volume to <volume>",
                ],
            ),
            ("duration", FOR),
        ],
        conflicts: &[],
        train: &[
            "play some <genre>",
            "put on a bit of <genre>",
            "start a <genre> playlist",
            "play something by <artist>",
            "put <artist> on the speakers",
            "start an album by <artist>",
        ],
        eval: &[
            "let me hear <genre>",
            "I feel like hearing <genre>.",
            "let me listen to <artist>",
            "I would love to hear songs by <artist>.",
        ],
    },
    Function {
        name: "switch_device",
        attributes: &["device", "state", "room", "time", "duration"],
        optional: &[("room", IN), ("time", AT), ("duration", FOR)],
        conflicts: &[],
        train: &[
            "turn <state> the <device>",
            "turn the <device> <state>",
            "switch <state> the <device>",
            "switch the <device> <state>",
            "put the <device> <state>",
            "I want the <device> switched <state>.",
        ],
        eval: &[
            "flip the <device> to <state>",
            "make sure the <device> is <state>",
            "The <device> must be <state>.",
        ],
    },
    Function {
        name: "set_heating",
        attributes: &["temperature", "room", "day", "time", "duration"],
        optional: &[("room", IN), ("day", ON), ("time", AT), ("duration", FOR)],
        conflicts: &[],
        train: &[
            "set the heating to <temperature> degrees",
            "heat to <temperature> degrees",
            "warm things up to <temperature> degrees",
            "put the thermostat at <temperature> degrees",
            "keep the temperature at <temperature> degrees",
            "I want it to be <temperature> degrees warm.",
        ],
        eval: &[
            "bring the heating to <temperature> degrees",
            "have the radiators deliver <temperature> degrees",
            "It should be <temperature> degrees.",
        ],
    },
    Function {
        name: "book_trip",
        attributes: &["mode", "origin", "destination", "day", "time", "seats"],
        optional: &[
            ("origin", &["from <origin>", "starting in <origin>", "leaving from <origin>"]),
            ("day", ON),
            ("time", AT),
            ("seats", &["for <seats> passengers", "with <seats> seats", "for <seats> of us"]),
        ],
        conflicts: &[],
        train: &[
            "book a <mode> to <destination>",
            "get me a <mode> ticket to <destination>",
            "reserve a <mode> going to <destination>",
            "find a <mode> to <destination> and book it",
            "buy a <mode> ticket for <destination>",
            "I want to travel to <destination> by <mode>.",
        ],
        eval: &[
            "arrange a <mode> that takes me to <destination>",
            "sort out a <mode> journey to <destination>",
            "I have to reach <destination> by <mode>.",
        ],
    },
    Function {
        name: "reserve_table",
        attributes: &["restaurant", "seats", "day", "time"],
        optional: &[
            ("seats", &["for <seats> people", "for a party of <seats>", "for <seats> guests"]),
            ("day", ON),
            ("time", AT),
        ],
        conflicts: &[],
        train: &[
            "book a table at <restaurant>",
            "reserve a table at <restaurant>",
            "get us a table at <restaurant>",
            "make a dinner reservation at <restaurant>",
            "call <restaurant> and reserve a table",
            "I want a table at <restaurant>.",
        ],
        eval: &[
            "ask <restaurant> to keep a table",
            "secure a place to sit at <restaurant>",
            "We are giving a dinner at <restaurant>.",
        ],
    },
    Function {
        name: "add_item",
        attributes: &["item", "quantity", "list", "store", "person"],
        optional: &[
            ("store", &["from the <store>", "to buy at the <store>"]),
            ("person", &["for <person>", "as <person> asked"]),
        ],
        conflicts: &[],
        train: &[
            "put <item> down",
            "note down <item>",
            "note that we need <quantity> <item>",
            "jot down <quantity> <item>",
            "add <item> to the <list> list",
            "put <item> on my <list> list",
            "add <quantity> <item> to the <list> list",
            "put <quantity> <item> on the <list> list",
        ],
        eval: &[
            "take down <item>",
            "make an entry of <quantity> <item>",
            "enter <item> into the <list> list",
            "extend the <list> list by <quantity> <item>",
        ],
    },
    Function {
        name: "find_recipe",
        attributes: &["ingredient", "diet", "duration", "servings"],
        optional: &[
            ("diet", &["that is <diet>", "suitable for a <diet> diet", "and keep it <diet>"]),
            (
                "duration",
                &["that takes <duration>", "ready in <duration>", "that is done within <duration>"],
            ),
            (
                "servings",
                &["for <servings> people", "that feeds <servings>", "to serve <servings>"],
            ),
        ],
        conflicts: &[],
        train: &[
            "find a recipe with <ingredient>",
            "look up a dish with <ingredient>",
            "show me a recipe that uses <ingredient>",
            "suggest something with <ingredient>",
            "search for a meal made from <ingredient>",
            "I am looking for a recipe with <ingredient>.",
        ],
        eval: &[
            "think of a stew containing <ingredient>",
            "come up with a supper based on <ingredient>",
            "Do you know any dish containing <ingredient>?",
        ],
    },
    Function {
        name: "check_weather",
        attributes: &["aspect", "city", "day", "time"],
        optional: &[("day", ON), ("time", AT)],
        conflicts: &[],
        train: &[
            "check the weather in <city>",
            "What will the weather be like in <city>?",
            "give me the forecast for <city>",
            "check whether to expect <aspect> in <city>",
            "Will there be <aspect> in <city>?",
            "look up the chance of <aspect> in <city>",
        ],
        eval: &[
            "find out what the sky over <city> will do",
            "How is the weather going to be in <city>?",
            "Is <aspect> likely in <city>?",
            "see if <aspect> is coming to <city>",
        ],
    },
    Function {
        name: "schedule_meeting",
        attributes: &["person", "topic", "day", "time", "duration", "room"],
        optional: &[
            ("topic", &["about <topic>", "to discuss <topic>", "on the subject of <topic>"]),
            ("day", ON),
            ("time", AT),
            ("duration", FOR),
            ("room", IN),
        ],
        conflicts: &[],
        train: &[
            "schedule a meeting with <person>",
            "set up a meeting with <person>",
            "put a call with <person> in my calendar",
            "arrange a talk with <person>",
            "book some time with <person>",
            "I want to meet <person>.",
        ],
        eval: &[
            "find a slot for me and <person>",
            "get <person> together with me",
            "I ought to sit down with <person>.",
        ],
    },
];

const CITIES: &[&str] = &[
    "Lisbon", "Oslo", "Porto", "Riga", "Ghent", "Turin", "Cork", "Bergen", "Lyon", "Graz",
    "Bilbao", "Malmo", "Basel", "Krakow", "Leeds", "Nantes",
];
const PEOPLE: &[&str] = &[
    "Anna", "Tomas", "Priya", "Malik", "Greta", "Hugo", "Ines", "Jonas", "Leila", "Marco", "Nadia",
    "Oscar", "Paula", "Rafi", "Sofia", "Yusuf",
];

/// The values of an attribute, the same in every function.
pub(super) fn values(attribute: &str) -> &'static Values {
    match attribute {
        "time" => &Time,
        "day" => &Spoken(&[
            ("today", &["today"]),
            ("tomorrow", &["tomorrow"]),
            ("monday", &["on Monday", "this Monday"]),
            ("tuesday", &["on Tuesday", "this Tuesday"]),
            ("wednesday", &["on Wednesday", "this Wednesday"]),
            ("thursday", &["on Thursday", "this Thursday"]),
            ("friday", &["on Friday", "this Friday"]),
            ("saturday", &["on Saturday", "this Saturday"]),
            ("sunday", &["on Sunday", "this Sunday"]),
        ]),
        "repeat" => &Spoken(&[
            ("daily", &["every day", "each day"]),
            ("weekdays", &["on weekdays", "every weekday"]),
            ("weekends", &["at weekends", "every weekend"]),
            ("weekly", &["every week", "once a week"]),
        ]),
        "duration" => &Spoken(&[
            ("5 min", &["5 minutes", "five minutes"]),
            ("10 min", &["10 minutes", "ten minutes"]),
            ("15 min", &["15 minutes", "a quarter of an hour"]),
            ("20 min", &["20 minutes", "twenty minutes"]),
            ("25 min", &["25 minutes", "twenty-five minutes"]),
            ("30 min", &["30 minutes", "half an hour"]),
            ("40 min", &["40 minutes", "forty minutes"]),
            ("60 min", &["60 minutes", "one hour", "an hour"]),
            ("90 min", &["90 minutes", "an hour and a half"]),
            ("120 min", &["120 minutes", "two hours", "2 hours"]),
        ]),
        "state" => &Plain(&["on", "off"]),
        "label" => &Plain(&[
            "gym",
            "school run",
            "bread",
            "laundry",
            "medicine",
            "yoga",
            "pasta",
            "tea",
            "night shift",
            "swimming",
            "choir",
            "glue",
        ]),
        "sound" => &Plain(&["bell", "chime", "drum", "flute", "whistle", "birdsong"]),
        "room" => &Plain(&[
            "kitchen",
            "study",
            "bedroom",
            "garage",
            "attic",
            "hall",
            "workshop",
            "bathroom",
            "living room",
            "cellar",
        ]),
        "person" => &Plain(PEOPLE),
        "task" => &Plain(&[
            "water the plants",
            "pay the rent",
            "feed the cat",
            "call the dentist",
            "return the library books",
            "take out the bins",
            "buy stamps",
            "charge the drill",
            "renew the passport",
            "clean the filter",
            "pick up the parcel",
            "sign the contract",
            "lock the shed",
            "order paint",
        ]),
        "place" => {
            &Plain(&["office", "station", "bank", "gym", "school", "airport", "pharmacy", "market"])
        }
        "message" => &Plain(&[
            "the train is late",
            "dinner is ready",
            "the keys are on the table",
            "the meeting is over",
            "the plumber has come",
            "we need more milk",
            "the game is cancelled",
            "the car is fixed",
            "grandma has arrived",
            "the tickets are booked",
            "the door is open",
            "the parcel is here",
        ]),
        "channel" => &Plain(&["email", "text message", "chat", "voicemail"]),
        "artist" => &Plain(&[
            "Nina Simone",
            "Miles Davis",
            "Bjork",
            "Fela Kuti",
            "Arvo Part",
            "Joni Mitchell",
            "Ravi Shankar",
            "Edith Piaf",
            "Bob Marley",
            "Clara Schumann",
            "Tom Waits",
            "Cesaria Evora",
        ]),
        "genre" => &Plain(&[
            "jazz",
            "folk",
            "techno",
            "samba",
            "blues",
            "opera",
            "swing",
            "ska",
            "reggae",
            "chamber music",
            "disco",
            "soul",
        ]),
        "volume" => &Number(2, 10),
        "device" => &Plain(&[
            "lamp",
            "fan",
            "heater",
            "radio",
            "kettle",
            "lathe",
            "compressor",
            "printer",
            "dehumidifier",
            "oven",
            "sander",
            "television",
        ]),
        "temperature" => &Number(15, 25),
        "mode" => &Plain(&["train", "ferry", "bus", "flight", "taxi", "night train"]),
        "origin" | "destination" | "city" => &Plain(CITIES),
        "seats" | "servings" => &Number(2, 9),
        "restaurant" => &Plain(&[
            "The Blue Spoon",
            "Casa Verde",
            "Old Mill",
            "Saffron House",
            "Bella Nonna",
            "The Salty Dog",
            "Lotus Garden",
            "Chez Margot",
            "Iron Kettle",
            "Green Fig",
            "Harbour Grill",
            "Little Anatolia",
        ]),
        "item" => &Plain(&[
            "lemons",
            "candles",
            "batteries",
            "light bulbs",
            "eggs",
            "paint brushes",
            "screws",
            "napkins",
            "onions",
            "sanding discs",
            "notebooks",
            "envelopes",
            "tomatoes",
            "hinges",
        ]),
        "quantity" => &Number(2, 12),
        "list" => &Plain(&["shopping", "party", "camping", "repair", "office", "holiday"]),
        "store" => {
            &Plain(&["market", "hardware shop", "corner shop", "supermarket", "department store"])
        }
        "ingredient" => &Plain(&[
            "lentils",
            "salmon",
            "leeks",
            "chickpeas",
            "mushrooms",
            "rice",
            "pumpkin",
            "spinach",
            "tofu",
            "beans",
            "cabbage",
            "trout",
            "barley",
            "aubergine",
        ]),
        "diet" => {
            &Plain(&["vegan", "vegetarian", "gluten-free", "dairy-free", "nut-free", "low-salt"])
        }
        "aspect" => &Plain(&["rain", "snow", "fog", "frost", "strong wind", "thunder", "sunshine"]),
        "topic" => &Plain(&[
            "the budget",
            "the roof",
            "the new logo",
            "the garden",
            "the contract",
            "the menu",
            "the school trip",
            "the website",
            "the exam",
            "the insurance",
        ]),
        other => unreachable!("attribute `{other}` has no values"),
    }
}
