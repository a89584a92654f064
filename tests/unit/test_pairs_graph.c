/* Numbers of questions, and the equation graph: what is refused and why, and what a change makes of a solution.
 * The expected texts and answers are worked out by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "problems/problem_annotate.h"
#include "problems/problem_graph.h"

static void numbers_of_questions(void **state) {
    (void)state;
    static const struct {
        const char *text, *found; /* each number as VALUE:kind, kind = digits word fraction implied fixed */
    } cases[] = {
        {"He has 12 apples, $1,250.50 and 3 dogs.", "12:d 1250.5:d 3:d"},
        {"Three cats and twelve dogs", "3:w 12:w"},
        {"twenty-five men, two hundred women, one boy", "25:x 200:x 1:x"},
        {"half of it, twice, a dozen, a third", "1/2:i 2:i 12:i 1/3:i"},
        {"2/3 of 9", "2/3:f 9:d"},
        {"2 1/2 cups", "2:x 1/2:f"},
        {"two thirds of it", "2:x 1/3:i"},
        {"at 5:30 pm, at 6 am, on May 3rd, in 2019", "5:x 30:x 6:x 3:x 2019:x"},
        {"$2019 and 2,019 miles", "2019:d 2019:d"},
        {"5-6 days, 4x4, 7k, the 1990s, A4, #9", "5:x 6:x 4:x 4:x 7:x 1990:x 4:x 9:x"},
        {"a 60-mile trip of 2-hour legs", "60:d 2:d"},
        {"25% or 20 percent or 30 cents", "25:d 20:d 30:d"},
        {"grade 5, size 9, Day 3", "5:x 9:x 3:x"},
        {"5 million and 3 and a half", "5:x 1000000:x 3:x 1/2:i"},
        {"someone none attend tone", ""},
        {".5 and 0.25.", "0.5:d 0.25:d"},
    };
    static const char kinds[] = "dwfix";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_number_list list;
        lp_text shown = {0};
        lp_error error;
        lp_numbers_find(cases[i].text, strlen(cases[i].text), LP_TEXT_QUESTION, &list);
        for (size_t k = 0; k < list.n; k++) {
            if (k > 0) lp_text_add(&shown, " ", 1, &error);
            lp_rational_print(list.items[k].value, 0, LP_COMMAS_NO, &shown, &error);
            /* Fractions that end are shown as such here, to tell 1/2 from 0.5. */
            lp_text_format(&shown, &error, ":%c", kinds[list.items[k].kind]);
        }
        char *at = NULL;
        lp_text plain = {0};
        lp_text_add(&plain, cases[i].found, strlen(cases[i].found), &error);
        while (plain.length && (at = strstr(plain.data, "1/2:")) != NULL) memcpy(at, "0.5", 3);
        if (strcmp(lp_text_get(&shown), lp_text_get(&plain)) != 0)
            fail_msg("%s\n  expected: %s\n  found:    %s", cases[i].text, lp_text_get(&plain), lp_text_get(&shown));
        lp_text_release(&shown);
        lp_text_release(&plain);
    }
}

static lp_reason build(const char *question, const char *solution, const char *answer, lp_graph *out) {
    lp_rational value = {0, 1};
    assert_true(lp_rational_parse(answer, strlen(answer), &value));
    return lp_graph_build(question, solution, value, out);
}

static lp_graph graph;
static lp_recomputed changed;

static void problems(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer, *reason;
    } cases[] = {
        {"A has 5 and B 7. Sum?", "5+7=<<5+7=12>>12\n#### 12", "12", "none"},
        {"A has 5 and B 7. Sum?", "It is 12.\n#### 12", "12", "no-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+y=12>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12 apples>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<(5+7=12>>", "12", "bad-annotation"},
        {"A has 5 and B 7. Sum?", "<<5+7=12> <<5+7=12>>", "12", "bad-annotation"},
        {"A has 5, B 7 and C 9. A and B?", "<<5+7=12>>", "12", "conditional"},
        {"A has 5 and B 7. Sum?", "<<5/(7-7)=1>>", "1", "division-by-zero"},
        {"A has 5 and B 7. Sum?", "<<9000000000000000000*7=1>>", "1", "overflow"},
        {"A has 10 and B 3. Share?", "<<10/3=3.33>>", "3.33", "inexact-step"},
        {"A has 5 and B 7. Sum?", "<<5+7=12>>", "13", "answer-not-derived"},
        {"A has 5 and B 7. Sum?", "<<5+9=14>>", "14", "unexplained-operand"},
        {"A has 5 and B 7. Sum?", "As 19 is prime, <<5+7=12>>", "12", "unexplained-text"},
        {"How many minutes are 5 hours?", "<<5*60=300>>300", "300", "none"},
        {"How many legs have 5 bugs?", "<<5*60=300>>300", "300", "unexplained-operand"},
        {"A has 20 and buys 10% more. How many?", "20*.1=<<20*.1=2>>2\n<<20+2=22>>22", "22", "none"},
        {"A has 20% off of $50. Price?", "<<50*.8=40>>40", "40", "none"},
        {"Paid 10 a day, after 8 days double. For 5 days?", "<<10*5=50>>50", "50", "conditional"},
        {"The cheapest of 5 pens is 3 less. Which?", "<<5-3=2>>2", "2", "conditional"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *found = lp_reason_name(build(cases[i].question, cases[i].solution, cases[i].answer, &graph));
        if (strcmp(found, cases[i].reason) != 0)
            fail_msg("%s %s: expected %s, found %s", cases[i].question, cases[i].solution, cases[i].reason, found);
    }
}

/* A change: number `nth` of the question becomes `to`. */
static void changes(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer;
        size_t nth;
        const char *to, *reason, *new_question, *new_solution;
    } cases[] = {
        {"He buys 3 boxes of 12 pens and loses 4. How many?",
         "3*12 = <<3*12=36>>36 pens\nSo 36-4=<<36-4=32>>32\n#### 32", "32", 1, "15", "none",
         "He buys 3 boxes of 15 pens and loses 4. How many?",
         "3*15 = <<3*15=45>>45 pens\nSo 45-4=<<45-4=41>>41\n#### 41"},
        {"Three boxes of $1,250.50 each: what cost?", "<<3*1250.50=3751.50>>$3,751.50\n#### 3751.5", "3751.5", 0, "5",
         "none", "Five boxes of $1,250.50 each: what cost?", "<<5*1250.50=6252.50>>$6,252.50\n#### 6252.5"},
        {"A coat of $50 is 20% off. Price?", "<<50*.8=40>>40\n#### 40", "40", 1, "40", "none",
         "A coat of $50 is 40% off. Price?", "<<50*0.6=30>>30\n#### 30"},
        {"Ann runs 9 miles in 3 hours. Speed?", "<<9/3=3>>3\n#### 3", "3", 0, "8", "not-whole", "", ""},
        {"Ann has 9 and gives 3. Left?", "<<9-3=6>>6\n#### 6", "6", 1, "9", "not-positive", "", ""},
        {"Ann has 9 and gives 3 and 4. Left?", "<<9-(3+4)=2>>2\n#### 2", "2", 1, "6", "not-positive", "", ""},
        {"8 of 40 are red. Percent?", "<<8/40*100=20>>20%\n#### 20", "20", 0, "50", "percent-range", "", ""},
        {"He eats 2 of 8 slices. Share?", "<<2/8=0.25>>0.25\n#### 0.25", "0.25", 0, "8", "crosses-one", "", ""},
        {"A 5, B 7, C 9. A and B?", "<<5+9=14>>14\n<<5+7=12>>12\n#### 12", "12", 2, "8", "loose-step", "", ""},
        {"4 squares and 9 dogs. Corners?", "<<4*4=16>>16\n#### 16", "16", 0, "5", "ambiguous-link", "", ""},
        {"He has 5 and gets 3, then 8 more. How many?", "<<5+3=8>>8\n<<8+8=16>>16\n#### 16", "16", 2, "9",
         "ambiguous-link", "", ""},
        {"He and 3 friends share 24 eggs for 2 weeks. Each?", "<<24/4=6>>6\n#### 6", "6", 0, "5", "ambiguous-link", "",
         ""},
        {"3 of 7 days he eats 9 eggs, else 2. Eggs?", "On 7-3=4 days\n<<9*3=27>>27\n<<27+2*4=35>>35\n#### 35", "35", 0,
         "2", "unexplained-operand", "", ""},
        {"In 2 years he got 0.5 more, 9 a year. Words?", "1/.5=2 times\n<<9*2=18>>18\n<<18*2=36>>36\n#### 36", "36", 0,
         "4", "text-equation", "", ""},
        {"A has 5. B has 3 more, C 6. Who?", "<<5*6-6*5+3=3>>3\n#### 3", "3", 0, "7", "equal-answer", "", ""},
        {"A has 3, B 5 and C 4. They share. Each?", "3+5+4=<<3+5+4=12>>12\n<<12/3=4>>4\n#### 4", "4", 0, "6",
         "ambiguous-link", "", ""},
        {"A has 9 and B 7. Sum?", "<<9+7=16>>16\n#### 16", "16", 0, "9223372036854775807", "overflow", "", ""},
        /* Two sources, told from each other by the unit that is written out, on the spot or before on the line. */
        {"3 women have 5 pens at $3 each. Cost?", "5 pens * 3 women = <<5*3=15>>15\n15*$3=<<15*3=45>>45\n#### 45", "45",
         0, "4", "none", "", "5 pens * 4 women = <<5*4=20>>20\n20*$3=<<20*3=60>>60\n#### 60"},
        {"5 rolls at $3, 3 pies at $7. Cost?",
         "5 rolls cost $3 so 5*3=<<5*3=15>>15\n3 pies cost $7 so 3*7=<<3*7=21>>21\n15+21=<<15+21=36>>36\n#### 36", "36",
         1, "4", "none", "",
         "5 rolls cost $4 so 5*4=<<5*4=20>>20\n3 pies cost $7 so 3*7=<<3*7=21>>21\n20+21=<<20+21=41>>41\n#### 41"},
        {"3 women have 5 pens at $3 each. Cost?", "<<5*3=15>>15\n<<15*3=45>>45\n#### 45", "45", 0, "4",
         "ambiguous-link", "", ""},
        /* The first step has no other use than the last 8, so the 8 of the question has the first. */
        {"8 men and 5 get 3 each; 8 leave. Sum?", "<<5+3=8>>8\n<<8+8=16>>16\n#### 16", "16", 0, "9", "ambiguous-link",
         "", ""},
        {"He has 20 at $5, spends $80 and gets 4 times 5.", "<<4*5=20>>20\n<<20+80=100>>100\n<<100-20=80>>80\n#### 80",
         "80", 3, "6", "ambiguous-link", "", ""},
        {"He lives 60 miles off and reads 20 pages for 3 hours. Minutes each?", "<<20*3=60>>60\n<<60/60=1>>1\n#### 1",
         "1", 1, "40", "ambiguous-link", "", ""},
        {"A class has 20 boys, 3 classes. Half are ill in an hour. Ill?", "<<3*20=60>>60\n<<60*.5=30>>30\n#### 30",
         "30", 0, "40", "none", "", "<<3*40=120>>120\n<<120*.5=60>>60\n#### 60"},
        {"4 bags of 2 pine cones, and 18 less 10 more. Sum?",
         "4*2=<<4*2=8>>8 pine cones\n18-10=<<18-10=8>>8 pinecones\n8 pine cones + 8 pinecones = <<8+8=16>>16\n#### 16",
         "16", 0, "5", "ambiguous-link", "", ""},
        {"Of 60 guests half are women, 15 are men, the rest children. 1/3 of the men left. Stayed?",
         "60/2=<<60/2=30>>30 women\n60-30-15=<<60-30-15=15>>15 children\n15 men / 3 = <<15/3=5>>5 men\n"
         "60-5=<<60-5=55>>55\n#### 55",
         "55", 0, "90", "ambiguous-link", "", ""},
        /* Fractions and percentages that are written as something else. */
        {"He has 40 and 1 dog, and 1/4 as much. How much is that?", "<<1/4*40=10>>10\n#### 10", "10", 0, "80", "none",
         "", "<<1/4*80=20>>20\n#### 20"},
        {"4 pens cost $80, 25% less. Now? Each?", "<<80/4=20>>20\n<<80-20=60>>60\n#### 60", "60", 0, "5",
         "ambiguous-link", "", ""},
        {"He keeps 50% of 60 and drops the rest. Dropped?", "<<60/2=30>>30\n#### 30", "30", 0, "20", "ambiguous-link",
         "", ""},
        {"Her mother and sister get 2 of 12 boxes each. Left?", "<<2*2=4>>4\n<<12-4=8>>8\n#### 8", "8", 0, "3",
         "ambiguous-link", "", ""},
        {"25% of 80 are red. Red?", "<<80*25*.01=20>>20\n#### 20", "20", 1, "60", "none", "",
         "<<60*25*.01=15>>15\n#### 15"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_reason reason = build(cases[i].question, cases[i].solution, cases[i].answer, &graph);
        lp_rational to = {0, 1};
        lp_text text = {0};
        lp_error error = {0};
        assert_true(lp_rational_parse(cases[i].to, strlen(cases[i].to), &to));
        if (reason == LP_REASON_NONE || reason == LP_REASON_CONDITIONAL) {
            assert_true(cases[i].nth < graph.numbers.n);
            lp_graph_unchanged(&graph, &changed);
            changed.numbers[cases[i].nth].value = to;
            reason = lp_graph_recompute(&graph, &changed);
            if (reason == LP_REASON_NONE) reason = lp_graph_sound(&graph, &changed);
        }
        if (strcmp(lp_reason_name(reason), cases[i].reason) != 0)
            fail_msg("%s -> %s: expected %s, found %s", cases[i].question, cases[i].to, cases[i].reason,
                     lp_reason_name(reason));
        if (reason != LP_REASON_NONE) continue;
        assert_int_equal(lp_graph_question(&graph, &changed, &text, &error), LP_OK);
        if (cases[i].new_question[0]) assert_string_equal(lp_text_get(&text), cases[i].new_question);
        lp_text_clear(&text);
        assert_int_equal(lp_graph_solution(&graph, &changed, &text, &error), LP_OK);
        assert_string_equal(lp_text_get(&text), cases[i].new_solution);
        lp_text_release(&text);
    }
}

static void changeable_numbers(void **state) {
    (void)state;
    static const struct {
        const char *question, *solution, *answer;
        size_t nth;
        const char *reason;
    } cases[] = {
        {"He has 12 eggs and 7 pens. Sum?", "<<12+7=19>>19", "19", 0, "none"},
        {"He has 12 eggs and 12 pens and 7. Sum?", "<<12+12+7=31>>31", "31", 0, "repeated-value"},
        {"He has 12 eggs and a dozen pens. Sum?", "<<12+12=24>>24", "24", 0, "repeated-value"},
        {"He has 12 eggs, 7 pens and five cats. Eggs and pens?", "<<12+7=19>>19", "19", 2, "not-linked"},
        {"At 12 pm he has 7 eggs. Half-days until 12?", "<<12+7=19>>19", "19", 0, "fixed-number"},
        {"He has 1 egg and 7 pens. Sum?", "<<1+7=8>>8", "8", 0, "fixed-number"},
        {"The three boys have 9 each. Sum?", "<<3*9=27>>27", "27", 0, "enumerated"},
        {"She has 3 pets: a cat, a dog and a cow, of 9 kg each. Sum?", "<<3*9=27>>27", "27", 0, "enumerated"},
        {"Tests gave 70, 80 and 90 points. Mean of 3?", "<<70+80+90=240>>240\n<<240/3=80>>80", "80", 3, "enumerated"},
        {"Of 60 balls 25 are red and 35 blue. Red and blue pay 2. Pay?", "<<25+35=60>>60\n<<60*2=120>>120", "120", 1,
         "redundant"},
        {"Of 60 balls 25 are red, 30 blue and 5 white. Double of all but red?",
         "<<60-25=35>>35\n<<30+5=35>>35\n<<35*2=70>>70", "70", 2, "redundant"},
        {"Of 42 seats in 6 rows of 7 half are taken. Taken per row?", "<<42/2=21>>21\n<<21/6=3.5>>3.5\n<<3.5*2=7>>7",
         "7", 1, "redundant"},
        {"30% walk and 70% ride, of 50. Walkers?", "<<50*.3=15>>15", "15", 0, "redundant"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_reason built = build(cases[i].question, cases[i].solution, cases[i].answer, &graph);
        if (built != LP_REASON_NONE) fail_msg("%s: %s", cases[i].question, lp_reason_name(built));
        const char *found = lp_reason_name(lp_graph_changeable(&graph, cases[i].nth));
        if (strcmp(found, cases[i].reason) != 0)
            fail_msg("%s, number %zu: expected %s, found %s", cases[i].question, cases[i].nth, cases[i].reason, found);
    }
}

static void limits(void **state) {
    (void)state;
    static const struct {
        const char *question;
        int64_t limit;
    } cases[] = {
        {"He works 5 days a week.", 7},
        {"It runs 3 hours each day.", 24},
        {"A tax of 15% is paid.", 99},
        {"A gain of 150% is made.", 0},
        {"He has 5 dogs.", 0},
        {"He swims 4 days per week.", 7},
        {"She pays 6 months of the year.", 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        graph.question = cases[i].question;
        graph.question_length = strlen(cases[i].question);
        lp_numbers_find(graph.question, graph.question_length, LP_TEXT_QUESTION, &graph.numbers);
        int64_t found = lp_graph_limit(&graph, 0);
        if (found != cases[i].limit)
            fail_msg("%s: expected %lld, found %lld", cases[i].question, (long long)cases[i].limit, (long long)found);
    }
}

static void variants(void **state) {
    (void)state;
    const char *question = "Three men eat 12 eggs in half a day.";
    assert_int_equal(build(question, "<<12/3=4>>4", "4", &graph), LP_REASON_NONE);
    lp_graph_unchanged(&graph, &changed);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men  eat 20 eggs in half a day.", &changed), LP_REASON_NONE);
    assert_int_equal(lp_graph_recompute(&graph, &changed), LP_REASON_NONE);
    assert_int_equal(changed.answer.n, 4);
    assert_int_equal(changed.numbers[1].value.n, 20);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men ate 20 eggs in half a day.", &changed),
                     LP_REASON_OTHER_TEXT);
    assert_int_equal(lp_graph_take_variant(&graph, "Five men eat 20 eggs.", &changed), LP_REASON_OTHER_TEXT);
}

/* "a" and "an" in front of a number that changes. */
static void articles(void **state) {
    (void)state;
    static const struct {
        const char *question;
        int64_t to;
        bool fits;
    } cases[] = {
        {"A man has an 8-hour day.", 9, false},
        {"A man has an 8-hour day.", 11, true},
        {"He digs a 6 foot pool.", 8, false},
        {"He digs a 6 foot pool.", 7, true},
        {"He gets a $15 tie.", 18, false},
        {"He gets a $15 tie.", 80, false},
        {"He gets a $15 tie.", 118, true},
        {"He gets an 11,000 mile trip.", 18000, true},
        {"He gets an 11,000 mile trip.", 1100, false},
        {"An 80-mile trip.", 90, false},
        {"He has 7 dogs.", 8, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        graph.question = cases[i].question;
        graph.question_length = strlen(cases[i].question);
        lp_numbers_find(graph.question, graph.question_length, LP_TEXT_QUESTION, &graph.numbers);
        if (lp_graph_article_fits(&graph, 0, lp_rational_whole(cases[i].to)) != cases[i].fits)
            fail_msg("%s -> %lld: expected %s", cases[i].question, (long long)cases[i].to,
                     cases[i].fits ? "to fit" : "not to fit");
    }
}

/* Equations of the text that become annotations. */
static void annotations(void **state) {
    (void)state;
    static const struct {
        const char *solution, *expected;
    } cases[] = {
        {"So 40 eggs - 10 eggs = 30 eggs.", "So 40 eggs - 10 eggs = <<40-10=30>>30 eggs."},
        {"$2,000 x 3 = $6,000\n#### 6000", "$2,000 x 3 = $<<2000*3=6000>>6,000\n#### 6000"},
        {"65+94 = <<159=159>>159", "65+94 = <<65+94=159>>159"},
        {"5+1 = <<5+1=6>>6", "5+1 = <<5+1=6>>6"},
        {"4*60/5 = 4*12 = <<4*60/5=48>>48", "4*60/5 = 4*12 = <<4*60/5=48>>48"},
        {"2A + 3 = 7, 3*x = 12, y = 5", "2A + 3 = 7, 3*x = 12, y = 5"},
        {"3 / 2 = 1 1/2 hours, 5-2 = 3%", "3 / 2 = 1 1/2 hours, 5-2 = 3%"},
        {"He eats 3 and 4 * 2 = 8 eggs", "He eats 3 and 4 * 2 = <<4*2=8>>8 eggs"},
        {"20% * 50 = 10", "20% * 50 = <<20%*50=10>>10"},
        {"6 \xc3\x97 4-inch = 24", "6 \xc3\x97 4-inch = <<6*4=24>>24"},
        {"(3+4)*2 = 14", "(3+4)*2 = 14"},
        {"5+", "5+"},
        {"5+5=", "5+5="},
        {"3+4=<<7", "3+4=<<7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_text text = {0};
        lp_error error = {0};
        size_t n_added = 0;
        assert_int_equal(lp_solution_annotate(cases[i].solution, &text, &n_added, &error), LP_OK);
        if (strcmp(lp_text_get(&text), cases[i].expected) != 0)
            fail_msg("expected: %s\nfound:    %s", cases[i].expected, lp_text_get(&text));
        assert_int_equal(n_added > 0, strcmp(cases[i].solution, cases[i].expected) != 0);
        lp_text_release(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_questions),
        cmocka_unit_test(problems),
        cmocka_unit_test(changes),
        cmocka_unit_test(articles),
        cmocka_unit_test(annotations),
        cmocka_unit_test(changeable_numbers),
        cmocka_unit_test(limits),
        cmocka_unit_test(variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
