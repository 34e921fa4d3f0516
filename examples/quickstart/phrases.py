"""What people ask in the quick start: intents, the words they are made of, and the queries made of both."""

THINGS = """the red gearbox|solar panels|the bicycle brake|fermented vegetables|the onboarding form|an umbrella|
the pump housing|late invoices|the new dashboard|battery safety|network latency|whiteboard sketches|the steel bridge|
wooden shelves|the water filter|a torn sail|copper pipes|the spare key|paper lanterns|the lift motor|seed potatoes|
the fire door|a loose cable|the coffee machine|old maps|the parking permit|garden tools|the night shift""".replace("\n", "").split("|")
PLACES = """Lisbon|Berlin|Nairobi|Osaka|Denver|Oslo|the test track|the main hall|warehouse seven|the harbour|the library|
the north gate|the workshop|the records office|the roof terrace|the front desk""".replace("\n", "").split("|")
PEOPLE = """Maria|John|Priya|Wei|Doctor Okafor|the presenter|the intern|our director|the customer|the second speaker|
the plumber|the night guard|Amina|the new tenant""".replace("\n", "").split("|")
TIMES = """yesterday|last Tuesday|tomorrow morning|this weekend|in the first week of June|on 14 March|two years ago|
at nine thirty|next Thursday|before lunch|in autumn|tonight""".replace("\n", "").split("|")
TEAMS = "safety|payments|marketing|robotics|search|hiring|planning|shipping|kitchen|garden".split("|")
VERBS = "opens|explains|drops|repairs|draws|points at|assembles|carries|paints|measures".split("|")

# Per intent: phrasings with a clear cue, then ones that are harder, as they borrow another intent's words.
INTENTS = {
    "video": (["show me the clip where {who} {does} {thing}", "find videos of {thing} filmed {when}",
               "jump to the moment {who} {does} {thing}", "which footage shows {thing} near {where}",
               "play the scene with {who} at {where}"],
              ["where in the recording of the storm does {who} appear", "the part of the film about {thing} and the report"]),
    "audio": (["transcribe the call with {who} from {when}", "what song plays while {who} {does} {thing}",
               "find where the speaker talks about {thing} in the {team} podcast", "listen to the voice message from {who}",
               "what did {who} say on the phone {when}"],
              ["the sound of rain behind {who} in the {team} podcast", "hear again what the picture guide says about {thing}"]),
    "image": (["find a picture of {thing} taken at {where}", "photos of {who} with {thing} from {when}",
               "show diagrams of {thing} for the {team} team", "which image has {thing} in front of {where}",
               "a portrait of {who} at {where}"],
              ["a still of {thing} from the film", "snapshots that {who} took while it snowed in {where}"]),
    "document": (["which page of the {team} manual mentions {thing}", "search the contract from {when} for {thing}",
                  "what does the {team} policy say about {thing}", "open the file on {thing} that {who} signed",
                  "find the paragraph on {thing} in the lease"],
                 ["the page on storms in the {team} manual", "which clause lets {who} move the date of the contract"]),
    "summary": (["summarise what we found about {thing}", "give me three bullet points on the {team} results",
                 "short recap of the talk on {thing} {when}", "boil the {team} discussion down to one line",
                 "the gist of what {who} wrote about {thing}"],
                ["in two lines what happens in the clip of {thing}", "a short version of the {team} contract please"]),
    "weather": (["will it rain in {where} {when}", "what is the forecast for {where} {when}",
                 "how cold does it get in {where} {when}", "is a storm coming to {where}",
                 "how windy will {where} be {when}"],
                ["should {who} take an umbrella to the meeting in {where}", "does the sun shine on {thing} {when}"]),
    "calendar": (["move my meeting with {who} to {when}", "when am I free {when} to see {who}",
                  "cancel the {team} appointment {when}", "put lunch with {who} in my diary {when}",
                  "remind me of the {team} meeting {when}"],
                 ["who is booked at {where} when the film is shown {when}", "find a date {when} for the report on {thing}"]),
    "code": (["why does my {team} service crash when it loads {thing}", "write a function that sorts {thing}",
              "fix the failing test in the {team} module", "explain this error in the {team} script",
              "add a unit test for {thing} to the {team} library"],
             ["the forecast script stops when {who} loads photos", "the calendar module prints {thing} twice, mend the loop"]),
    "travel": (["how do I get from {where} to {where2}", "which train goes to {where} {when}",
                "book a taxi to {where} for {who}", "how far is {where} from {where2}",
                "is there a ferry to {where} {when}"],
               ["the way to the meeting at {where} when it rains", "how long is the walk that the film starts with, {where} to {where2}"]),
    "chat": (["hello, who are you", "tell me something funny about {thing}", "thank you, that helped {who} a lot",
              "what can you do for the {team} team", "what should {who} cook {when}"],
             ["do you like rain in {where}", "good morning, any news of {who} and the clip"]),
}

OPENINGS = ["", "", "", "", "please ", "hey, ", "could you help: ", "quick question, "]
ENDINGS = ["", "", "", "", " thanks", " please", " if you can", " and keep it brief"]


def slots(rng):
    """One value for every slot of a phrasing."""
    where, where2 = rng.sample(PLACES, 2)
    return {"thing": rng.choice(THINGS), "who": rng.choice(PEOPLE), "when": rng.choice(TIMES), "where": where,
            "where2": where2, "team": rng.choice(TEAMS), "does": rng.choice(VERBS)}


def query(rng, intent, hard):
    """A query of this intent; `hard` is the share of phrasings that borrow another intent's words."""
    clear, borrowed = INTENTS[intent]
    text = rng.choice(borrowed if rng.random() < hard else clear).format(**slots(rng))
    return rng.choice(OPENINGS) + text + rng.choice(ENDINGS)
