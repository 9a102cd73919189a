"""Each public data set in its exact shape, in little, written by hand: with what their files really hold and worse.

Broken lines, duplicate events, titles that are missing, escaped twice, or hold quotes and tabs, bytes that are no UTF-8,
CRLF, a byte order mark, NaN for a rating.
"""

# ruff: noqa: E501 - a line of a public file is as long as it is

BOM = b"\xef\xbb\xbf"

AMAZON_2014 = {
    "reviews_Video_Games_5.json": (
        '{"reviewerID": "A2", "asin": "0700099867", "reviewerName": "123", "helpful": [8, 12], "reviewText": "Installing '
        'the game was a struggle", "overall": 1.0, "summary": "Pay to unlock", "unixReviewTime": 1341792000, '
        '"reviewTime": "07 9, 2012"}\n'
        '{"reviewerID": "A1", "asin": "0700099867", "helpful": [0, 0], "reviewText": "", "overall": 5.0, '
        '"summary": "It\'s \\"good\\"", "unixReviewTime": 1372550400, "reviewTime": "06 30, 2013"}\n'
        '{"reviewerID": "A1", "asin": "B00000", "helpful": [0, 0], "overall": NaN, "unixReviewTime": 1303862400, '
        '"reviewTime": "04 27, 2011"}\n'
        '{"reviewerID": "A1", "asin": "B00000", "helpful": [0, 0], "overall": 3.0, "unixReviewTime": 1303862400}\n'
        '{"reviewerID": "A3", "asin": "B00000", "helpf'
    ),
    # Python literals, as the metadata of this release are.
    "meta_Video_Games.json": (
        "{'asin': '0700099867', 'description': u'Caf\\xe9\\n', 'title': 'Dirt 3', 'price': 23.5, "
        "'imUrl': 'http://ecx.images-amazon.com/images/I/61.jpg', 'related': {'also_viewed': ['B000', 'B001']}, "
        "'salesRank': {'Video Games': 27577}, 'categories': [['Video Games', 'PC', 'Games']]}\n"
        "{'asin': 'B00000', 'title': \"Assassin's \\\"Creed\\\" &amp;amp; Co\", 'brand': None, 'categories': [['A']]}\n"
        "{'asin': 'B00001', 'price': 3.0, 'categories': [['Video Games']]}\n"
        "{'asin': 'B00002', 'title': __import__('os').getcwd()}\n"
    ),
}
AMAZON_2018 = {
    "Video_Games_5.json": BOM
    + (
        b'{"overall": 5.0, "verified": true, "reviewTime": "10 17, 2015", "reviewerID": "A1", "asin": "B1", '
        b'"style": {"Format:": " Video Game"}, "reviewerName": "J", "reviewText": "fun", "summary": "but", '
        b'"unixReviewTime": 1445040000}\r\n'
        b"noise\r\n"
        b"\r\n"
        b'{"overall": 4.0, "verified": false, "vote": "5", "reviewerID": "A1", "asin": "B2", '
        b'"unixReviewTime": 1437782400}\r\n'
        b'{"overall": 4.0, "verified": false, "reviewerID": "A1", "asin": "B2", "unixReviewTime": 1437782400}\r\n'
        b'{"overall": 4.0, "verified": false, "reviewerID": "A2", "asin": "B3"}\r\n'
        b'{"overall": 4.0, "verified": false, "reviewerID": "", "asin": "B3", "unixReviewTime": 1437782400}\r\n'
        b'{"overall": 4.0, "verified": false, "reviewerID": "A2", "unixReviewTime": 1437782400}\r\n'
    )
    + b'{"reviewerID": "A2", "reviewText": "caf\xe9", "asin": "B1", "unixReviewTime": "1437782401"}\r\n',
    "meta_Video_Games.json": (
        '{"category": ["Video Games", "PC"], "tech1": "", "description": [], "fit": "", "title": "Reversi &amp;quot;1\\"", '
        '"also_buy": [], "tech2": "", "brand": "Fidelity", "feature": [], "rank": [">#2 in"], "also_view": [], '
        '"main_cat": "Toys &amp; Games", "similar_item": "", "date": "", "price": "$1.99", "asin": "B1"}\n'
        '{"title": "A\\ttab", "brand": "", "main_cat": "Video Games", "asin": "B2"}\n'
        '{"title": "Again", "asin": "B2"}\n'
        '{"title": "", "asin": "B3"}\n'
        '{"title": "Nobody\'s"}\n'
    ),
}
AMAZON_2023 = {
    "Video_Games.jsonl": (
        '{"rating": 4.0, "title": "It\'s pretty sexy", "text": "I\'m playing", "images": [], "asin": "B07DJWBYKP", '
        '"parent_asin": "B07DK1H3H5", "user_id": "AGCI", "timestamp": 1608186804795, "helpful_vote": 0, '
        '"verified_purchase": true}\n'
        '{"rating": 5.0, "title": "Good", "text": "", "images": [{"small_image_url": "u"}], "asin": "B00ZS80PC2", '
        '"parent_asin": "B07SRWRH5D", "user_id": "AGCI", "timestamp": 1587051114941, "helpful_vote": 1, '
        '"verified_purchase": false}\n'
    ),
    "meta_Video_Games.jsonl": (
        '{"main_category": "Video Games", "title": "Dash 8-300 Professional Add-On", "average_rating": 5.0, '
        '"rating_number": 1, "features": ["Features Dash"], "description": [], "price": 53.99, "images": [], '
        '"videos": [], "store": "Aerosoft", "categories": ["Video Games", "PC"], "details": {"Pricing": "x"}, '
        '"parent_asin": "B07DK1H3H5", "bought_together": null}\n'
        '{"main_category": null, "title": "Phantasmagoria", "price": "None", "store": null, '
        '"parent_asin": "B07SRWRH5D"}\n'
    ),
}
STEAM_GAMES = (
    "{u'publisher': u'Kotoshiro', u'genres': [u'Action', u'Casual'], u'app_name': u'Lost Summoner Kitty', "
    "u'title': u'Lost Summoner Kitty', u'url': u'http://store.steampowered.com/app/761140/', "
    "u'release_date': u'2018-01-04', u'tags': [u'Strategy'], u'discount_price': 4.49, u'price': 4.99, "
    "u'early_access': False, u'id': u'761140', u'developer': u'Kotoshiro'}\n"
    "{u'genres': [u'Indie'], u'app_name': u\"Ironbound's \\u2122 \\\"2\\\"\", u'price': u'Free To Play', "
    "u'early_access': True, u'id': u'643980', u'developer': None}\n"
    "{u'publisher': u'no id', u'app_name': u'Log Challenge', u'price': 2.99}\n"
)
STEAM = {
    "steam_reviews.json": (
        "{u'username': u'Chaos Syren', u'hours': 0.1, u'products': 41, u'product_id': u'761140', u'page_order': 0, "
        "u'date': u'2017-12-17', u'text': u\"This wouldn't be \\\"good\\\"\\n\", u'early_access': False, u'page': 1}\n"
        "{u'hours': nan, u'username': u\"Caf\\xe9's\", u'product_id': u'643980', u'date': u'2017-12-16', u'page': 1}\n"
        "{u'hours': 51.1, u'product_id': u'761140', u'username': u'None: True', u'date': u'2014-02-14', u'page': 2}\n"
        "{u'hours': 51.1, u'product_id': u'761140', u'username': u'None: True', u'date': u'2014-02-14', u'page': 2}\n"
        "{u'hours': 51.1, u'product_id': u'761140', u'username': u'x', u'date': u'yesterday'}\n"
        "{u'hours': 51.1, u'product_id': u'761140', u'username': \n"
    ),
    "steam_games.json": STEAM_GAMES,
}
STEAM_AUSTRALIAN = {
    "australian_user_reviews.json": (
        "{'user_id': '76561197970982479', 'user_url': 'http://steamcommunity.com/profiles/76561197970982479', "
        "'reviews': [{'funny': '', 'posted': 'Posted November 5, 2011.', 'last_edited': '', 'item_id': '761140', "
        "'helpful': 'No ratings yet', 'recommend': True, 'review': \"Simple yet it's great\"}, "
        "{'funny': '', 'posted': 'Posted July 15.', 'item_id': '643980', 'recommend': True, 'review': 'x'}]}\n"
        "{'user_id': 'js41637', 'user_url': 'u', 'reviews': []}\n"
        "{'user_id': 'evcentric', 'user_url': 'u', 'reviews': [{'posted': 'Posted February 3, 2014.', "
        "'item_id': '643980'}]}\n"
        "[1, 2\n"
    ),
    "steam_games.json": STEAM_GAMES,
}
STEAM_OWNED = {
    "australian_users_items.json": (
        "{'user_id': '76561', 'items_count': 2, 'steam_id': '76561', 'user_url': 'u', 'items': [{'item_id': '10', "
        "'item_name': 'Counter-Strike', 'playtime_forever': 6, 'playtime_2weeks': 0}, {'item_id': '20', "
        "'item_name': 'Team Fortress Classic', 'playtime_forever': 0, 'playtime_2weeks': 0}]}\n"
        "{'user_id': 'v', 'items_count': 1, 'steam_id': '2', 'user_url': 'u', 'items': [{'item_id': '10', "
        "'item_name': 'Counter-Strike', 'playtime_forever': 1, 'playtime_2weeks': 0}]}\n"
    )
}
LASTFM_HETREC = {
    "artists.dat": (
        "id\tname\turl\tpictureURL\r\n"
        '51\tDuran "Duran"\thttp://www.last.fm/music/Duran+Duran\thttp://userserve-ak.last.fm/252/155668.jpg\r\n'
        "52\tMorcheeba &amp;amp; Co\thttp://www.last.fm/music/Morcheeba\t\r\n"
        "53\t\thttp://www.last.fm/music/\t\r\n"
        "54\tno url\r\n"
    ),
    "user_artists.dat": "userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t11690\r\n3\t51\tNaN\r\n3\t52\r\n",
    "user_taggedartists-timestamps.dat": (
        "userID\tartistID\ttagID\ttimestamp\r\n"
        "2\t52\t13\t1238536800000\r\n2\t52\t15\t1238536800000\r\n2\t51\t18\t1241128800000\r\n"
        "3\t53\t13\tnever\r\n3\t51\t13\t1175378400000\r\n3\t51\t13\t1241128800000\textra\r\n"
    ),
}
LASTFM_1K = {
    "userid-timestamp-artid-artname-traid-traname.tsv": (
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71-bd35-4e99-8624-24a6e15f133a\tDeep Dish\t\tFuck Me Im Famous\n"
        'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a-77d8-4f12-8acd-5c60c93f4de8\t坂本龍一\t\tComposition 0919 "Live"\n'
        "user_000002\t2009-05-04T13:52:04Z\t\tNo MusicBrainz\t\tx\n"
        "user_000002\t2009-05-04T13:52:04Z\t\tNo MusicBrainz\t\tx\n"
        "user_000002\t2009-05-04T13:52:04Z\t\t\t\tx\n"
        "user_000002\tnot a time\t\tNo MusicBrainz\t\tx\n"
        "user_000002\t2009-05-04T13:52:04Z\tone\tfield\ttoo\tmany\there\n"
    ).encode()
    + b"user_000003\t2009-05-05T13:52:04Z\t\tBj\xf6rk\t\tJ\xf3ga\n"
}
GOODREADS = {
    "goodreads_interactions_children.json": (
        '{"user_id": "8842281e1d1347389f2ab93d60773d4d", "book_id": "23310161", "review_id": "f4b4b050f4be00e9283c92a814af2670", '
        '"is_read": true, "rating": 4, "review_text_incomplete": "Fun sequel", "date_added": "Tue Nov 17 11:37:35 -0800 2015", '
        '"date_updated": "Tue Nov 17 11:38:05 -0800 2015", "read_at": "", "started_at": ""}\n'
        '{"user_id": "8842281e1d1347389f2ab93d60773d4d", "book_id": "18296097", "is_read": false, "rating": 0, '
        '"date_added": "Tue Nov 17 11:37:35 +0000 2015"}\n'
        '{"user_id": "u2", "book_id": "18296097", "date_added": "yesterday"}\n'
        '{"user_id": "u2", "book_id": 18296097, "date_added": "Sat Feb 29 00:00:00 +0000 2020"}\n'
        "{]\n"
    ),
    "goodreads_books_children.json": (
        '{"isbn": "", "series": ["1"], "authors": [{"author_id": "1", "role": ""}], "publication_year": "2014", '
        '"publisher": "P", "language_code": "eng", "book_id": "23310161", "title": "Fun \\"Book\\"", '
        '"title_without_series": "Fun"}\n'
        '{"publication_year": "", "book_id": "18296097", "title": "Tom &amp;amp; Jerry\\t2"}\n'
    ),
}
YELP = {
    "yelp_academic_dataset_review.json": (
        '{"review_id":"KU_O5udG6zpxOg","user_id":"mh_-eMZ6K5RLWh","business_id":"XQfwVwDr-v0ZS3","stars":3.0,"useful":0,'
        '"funny":0,"cool":0,"text":"If you decide","date":"2018-07-07 22:09:11"}\n'
        '{"review_id":"B","user_id":"mh_-eMZ6K5RLWh","business_id":"7ATYjTIgM3jUlt","stars":NaN,"date":"2012-01-03 15:28:18"}\n'
        '{"review_id":"B","user_id":"u2","business_id":"7ATYjTIgM3jUlt","stars":5.0,"date":"2012-01-03"}\n'
        "<html>\n"
    ),
    "yelp_academic_dataset_business.json": (
        '{"business_id":"XQfwVwDr-v0ZS3","name":"Turning Point &amp; Co","address":"1460 Bethlehem Pike","city":"North Wales",'
        '"state":"PA","postal_code":"19454","latitude":40.2,"longitude":-75.2,"stars":3.0,"review_count":169,"is_open":1,'
        '"attributes":{"NoiseLevel":"u\'average\'"},"categories":"Restaurants, Food","hours":{"Monday":"7:30-15:0"}}\n'
        '{"business_id":"7ATYjTIgM3jUlt","name":"Starbucks","city":"Tampa","state":"FL","categories":null,"hours":null}\n'
    ),
    "yelp_academic_dataset_user.json": '{"user_id":"mh_-eMZ6K5RLWh","name":"Jane","review_count":3}\n',
}
D3 = {
    "info/Games_5_2017-10-2018-11.txt": 'Dirt "3"\t0\nAssassin\'s Creed &amp; Co\t1\nA\ttab\t2\nUnused\t3\nbroken\n',
    "train/Games_5_2017-10-2018-11.csv": (
        "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,history_rating,rating,"
        "history_timestamp,timestamp\r\n"
        'A1,[\'B0\'],B1,[0],1,"[\'Dirt ""3""\']",Assassin\'s Creed &amp; Co,[5.0],4.0,[1500000000],1500000010\r\n'
        'A2,[\'B2\'],B0,[2],0,[\'A\\ttab\'],"Dirt ""3""",[nan],4.0,[1500000005],1500000020\r\n'
    ),
    "valid/Games_5_2017-10-2018-11.csv": (
        "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,history_rating,rating,"
        "history_timestamp,timestamp\r\n"
        'A1,"[\'B0\', \'B1\']",B2,"[0, 1]",2,"[\'Dirt ""3""\', ""Assassin\'s Creed &amp; Co""]",A\ttab,"[5.0, 4.0]",1.0,'
        '"[1500000000, 1500000010]",1500000030\r\n'
    ),
    "test/Games_5_2017-10-2018-11.csv": (
        "user_id,item_asins,item_asin,history_item_id,item_id,history_item_title,item_title,history_rating,rating,"
        "history_timestamp,timestamp\r\n"
        'A1,"[\'B1\', \'B2\']",B0,"[1, 2]",0,"[\'x\', \'y\']","Dirt ""3""","[4.0, 1.0]",NaN,'
        '"[1500000010, 1500000030]",1500000040\r\n'
        "A2,\"['B9', 'B0']\",B1,\"[1, 0]\",1,\"['x', 'y']\",Assassin's Creed &amp; Co,\"[4.0, 1.0]\",NaN,"
        '"[1500000001, 1500000020]",1500000050\r\n'
        'A3,[],B1,"[0, oops",1,[],x,[],1.0,[],1500000060\r\n'
        "A3,[],B1,[],1,[],x,[],1.0,[],1500000060\r\n"
    ),
}
MINIONEREC_HEAD = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
MINIONEREC = {
    "info/Office_5_2016-10-2018-11.txt": "<a_1><b_2><c_3>\tPen, red\t7\n<a_1><b_2><c_4>\tPaper\t8\n<a_2><b_0><c_0>\tInk\t9\n",
    "train/Office_5_2016-10-2018-11.csv": MINIONEREC_HEAD
    + "U1,\"['Pen, red']\",Paper,[7],8,['<a_1><b_2><c_3>'],<a_1><b_2><c_4>\n",
    "test/Office_5_2016-10-2018-11.csv": MINIONEREC_HEAD
    + "U1,\"['Pen, red', 'Paper']\",Ink,\"[7, 8]\",9,\"['<a_1><b_2><c_3>', '<a_1><b_2><c_4>']\",<a_2><b_0><c_0>\n",
}
_ASK = "Given a list of video games the user has played before, please recommend a new video game."
ALPACA = {
    "train.json": (
        f'[{{"instruction": "{_ASK}", "input": "The user has played the following video games before: \\"Dirt 3\\", '
        f'\\"Tom &amp;amp; \\"Jerry\\"\\"\\n ", "output": "\\"Portal\\""}},\n'
        f'{{"instruction": "{_ASK}", "input": "", "output": "\\"Portal\\"\\n"}},\n'
        f'{{"instruction": "{_ASK}", "output": 3}}]'
    ),
    "test.json": (
        f'[{{"instruction": "{_ASK}", "input": "The user has played the following video games before: \\"Portal\\"\\n ", '
        '"output": "\\"Dirt 3\\"\\n"}]'
    ),
}
