"""Plain English words that are taken for a made-up one now and then: what they mean would be unlearned."""

from __future__ import annotations

_TEXT = """
a an the my our your his her their this that one some of in on at with and or for from by
photo photograph picture image portrait painting drawing sketch render illustration logo icon style art design close
man woman person people boy girl child kid baby guy lady gentleman human face head hand eye hair body
friend family mother father brother sister son daughter wife husband king queen prince princess hero model actor doctor
dog cat puppy kitten horse pony bird duck chicken fish shark whale bear wolf fox lion tiger elephant monkey rabbit mouse
rat cow pig sheep goat deer frog snake turtle lizard dragon dinosaur unicorn bee spider butterfly animal pet
toy doll robot teddy plush puppet figure figurine puzzle ball game card lego action
car truck bus train bike bicycle motorcycle boat ship plane airplane rocket spaceship tractor van vehicle wheel engine
house home building tower castle church bridge room kitchen bedroom bathroom office shop store school hotel garden farm
city town village street road park beach island mountain hill valley river lake sea ocean forest tree flower grass leaf
desert snow sky cloud sun moon star planet space earth world fire water ice rain wind storm night day
table chair desk bed sofa couch lamp light door window wall floor shelf box bag basket bottle cup mug glass plate bowl
spoon fork knife pot pan clock watch phone camera computer laptop keyboard screen monitor printer chip gpu cpu machine
tool hammer drill saw key lock rope chain candle mirror pen pencil book paper letter map flag coin ring necklace
shirt dress skirt coat jacket hat cap shoe shoes boot boots sneaker sock glove scarf belt suit jeans trousers uniform
mask glasses sunglasses helmet backpack umbrella
apple banana orange lemon cherry grape strawberry tomato potato carrot onion bread cake cookie pizza burger cheese egg
milk coffee tea beer wine juice soup salad rice pasta chocolate candy sugar salt food drink fruit
red blue green yellow purple pink brown black white grey gray gold golden silver
big small little large tiny huge old new young long short tall high low hot cold dark bright happy sad good bad
beautiful cute pretty funny nice great cool super special magic secret token word name subject object thing concept
guitar piano drum violin music band team club company brand product package bottle statue sculpture sign poster
cartoon anime manga comic movie film scene character monster ghost zombie vampire witch wizard angel devil fairy alien
soldier knight pirate ninja clown cowboy police army gun sword shield bow arrow bomb tank
mark bill rose lily daisy jack grant frank dash olive ruby amber pearl crystal diamond stone rock metal wood steel iron
"""
COMMON_WORDS = frozenset(_TEXT.split())
