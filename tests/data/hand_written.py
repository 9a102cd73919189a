"""Atomic files written by hand, in RecBole's shape."""

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
u1\ta\t3\t30
u2\tb\t4\t10.0
u1\tb\t1\t10
u1\tc\t5\t2e1
u2\ta\t2\t5
u2\tc\t2\t40
"""
ITEM = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
c\tEmpire Strikes Back, The\t1980\tAction War
a\tStar Wars\t1977\tAction
b\t"Amy" &amp;amp; Co\tunkonwn\tDrama
"""
SEQUENCES = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
TITLES = "item_id:token\ttitle:token_seq\na\tAlpha\nb\tBeta\nc\tGamma\nd\tDelta\n"
