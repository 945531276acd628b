"""Finds what a pattern can recognize in a text: e-mail addresses, dates, amounts, order and phone
numbers.
"""

import re

_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_NUMBER = r"\d{1,12}(?:[.,]\d{1,6}){0,4}"

_PATTERNS = {
    "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
    "date": rf"\d{{4}}-\d{{2}}-\d{{2}}|(?:\d{{4}}年)?\d{{1,2}}月\d{{1,2}}[日号]"
    rf"|\b\d{{1,2}} {_MONTH}\b|\b{_MONTH} \d{{1,2}}\b",
    "amount": rf"[$€£¥￥]\s?{_NUMBER}|(?<!\d){_NUMBER}\s?(?:dollars|euros?|usd|eur|gbp|元|块)",
    "order": r"(?:order|订单)(?:\s?(?:number|no\.?|号))?\s?[:\uff1a#]?\s?([a-z]{0,4}-?\d[\d-]{2,19})|#(\d{3,20})",
    "phone": r"\+\d[\d ()-]{6,18}\d|(?<!\d)1[3-9]\d{9}(?!\d)",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _PATTERNS.items()}


def run(inputs):
    """Returns a list for each kind found: in the order of the text, without duplicates."""
    found = {name: _all(pattern, inputs["text"]) for name, pattern in _PATTERNS.items()}
    return {name: values for name, values in found.items() if values}


def _all(pattern, text):
    values = (next(filter(None, match.groups()), match[0]) for match in pattern.finditer(text))
    return list(dict.fromkeys(value.strip() for value in values))
