"""Settings made at random: they are taken, or each bad one is named in a line of its own."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from cache_actors.settings import BadSettings, Settings, load_settings

NAMES = sorted(name.upper() for name in Settings.model_fields)
VALUES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)
VALUES |= st.from_regex(r"[-+]?[0-9_]{1,30}(\.[0-9]+)?(e[0-9]{1,3})?", fullmatch=True)
VALUES |= st.sampled_from(["http://[::1", "//x", "/a/../b", "http://x:99999", "٣", "1_0"])


@given(environment=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
def test_any_settings_are_taken_or_named(environment: dict[str, str]) -> None:
    with patch.dict("os.environ", {"SERVER_URL": "http://tuist.example"} | environment, clear=True):
        try:
            load_settings()
        except BadSettings as error:
            for line in str(error).split("\n"):
                assert line.split(" ")[0] in {*NAMES}, line
                assert "; allowed: " in line or " are both set" in line, line
                assert line.isprintable(), line
