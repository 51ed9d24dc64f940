"""The HTML page of the `report` verb: data from the verbs, a template, a drawing library that is embedded."""
