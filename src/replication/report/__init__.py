"""Pages for people: what a record and a cluster's nodes say, in HTML that needs nothing else.

`story` reads the entries of a record and says what happened: who proposed what, who voted how, what was
decided and carried out, who coordinated, who lied. Pure, and the same for a live cluster's record as for an
exported one. `page` shows it, `drawing` draws it, and `html` is the frame that every page of this project has
(the reports on drills too): no scripts, no fonts, no images, nothing from anywhere else; and every text is
escaped unless it was made here.

Not here: asking nodes and reading files (`replication.cli.report`), and any verdict on whether what a node
said is true: who shows a page says on it where its facts are from.
"""
